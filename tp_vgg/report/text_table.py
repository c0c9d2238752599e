"""This module formats rows of text as a table that fits a terminal, or as Markdown."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence

from tp_vgg.errors import printable
from tp_vgg.machine.console import wrapped

_RULE = "    \n    \n -  \n    \n    \n    \n    \n    \n"
"""A box of rich with a line below the header, and nothing else."""
GAP = 2
"""Spaces between two columns."""
LONGEST_NAME = 20
"""Most places of a model's name in a table that must fit a terminal."""


def text_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None
) -> str:
    """Return an aligned table: the first column to the left, the others to the right.

    Every row has as many cells as ``header``. ``width``: the most characters of a line; ``None`` is
    no limit. If cells are too wide for it, they wrap between words. If even their longest words are
    too wide together, each row becomes a block of lines instead, one per cell. Control characters
    in cells are escaped (:func:`tp_vgg.errors.printable`).
    """
    # --help and refusals import this module too, and need no rich.
    from rich.box import Box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    lines = [[printable(cell) for cell in line] for line in (header, *rows)]
    columns = list(zip(*lines, strict=True))
    widths = [max(map(cell_len, column)) for column in columns]
    narrowest = [
        max(cell_len(word) for cell in column for word in (cell.split() or [""]))
        for column in columns
    ]
    gaps = GAP * (len(columns) - 1)
    if width is not None:
        if sum(narrowest) + gaps > width:
            return _blocks(lines[0], lines[1:], width)
        while sum(widths) + gaps > width:
            spare = [wide - least and wide for wide, least in zip(widths, narrowest, strict=True)]
            widths[spare.index(max(spare))] -= 1
    table = Table(
        box=Box(_RULE, ascii=True), show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0)
    )
    for i, title in enumerate(lines[0]):
        table.add_column(Text(title), justify="right" if i else "left", width=widths[i])
    for line in lines[1:]:
        table.add_row(*map(Text, line))
    out = io.StringIO()
    whole = sum(widths) + gaps
    Console(
        file=out, width=whole, color_system=None, legacy_windows=False, force_jupyter=False
    ).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _blocks(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """Return each row as its first cell and, indented below it, the others that are not empty."""
    return "\n\n".join(
        "\n".join(
            [
                wrapped(f"{header[0]}: {row[0]}", width),
                *(
                    wrapped(f"{name}: {cell}", width, indent="  ")
                    for name, cell in zip(header[1:], row[1:], strict=True)
                    if cell
                ),
            ]
        )
        for row in rows
    )


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a pipe table in GitHub's Markdown, with all columns but the first to the right.

    Control characters and ``|`` in cells are escaped.
    """
    rule = ["---"] + ["---:"] * (len(header) - 1)
    escaped = [
        [printable(cell).replace("|", "\\|") for cell in line] for line in (header, rule, *rows)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def shortened(names: Iterable[str]) -> dict[str, str]:
    """Return each model's name, which may be a path, without its middle if it is long.

    Long names that would then read the same begin with their number among ``names`` instead.
    """
    texts = {name: printable(name) for name in names}
    short = {name: _cut(text, "") for name, text in texts.items()}
    seen = list(short.values())
    return {
        name: cut if seen.count(cut) == 1 or cut == texts[name] else _cut(texts[name], f"({i}) ")
        for i, (name, cut) in enumerate(short.items(), 1)
    }


def _cut(text: str, start: str) -> str:
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= LONGEST_NAME:
        return text
    start = start or set_cell_size(text, 8).rstrip()
    rest = text
    while cell_len(rest) >= LONGEST_NAME - cell_len(start):
        rest = rest[1:]
    return f"{start}…{rest}"


def long_names(short: Mapping[str, str]) -> list[str]:
    """Return one line for each name that :func:`shortened` has cut: the short one and the whole."""
    whole = {name: printable(name) for name in short}
    return [f"{cut}: {whole[name]}" for name, cut in short.items() if cut != whole[name]]
