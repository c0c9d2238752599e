"""This module formats rows of text as an aligned table or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from tp_vgg.errors import printable


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an aligned table: the first column to the left, the others to the right.

    Two spaces separate the columns. Every row has as many cells as ``header``. Control characters
    in cells are escaped (:func:`tp_vgg.errors.printable`).
    """
    lines = [[printable(cell) for cell in line] for line in (header, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def aligned(line: Sequence[str]) -> str:
        cells = [line[0].ljust(widths[0])] + [
            cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)
        ]
        return "  ".join(cells).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([aligned(lines[0]), rule, *map(aligned, lines[1:])])


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a pipe table in GitHub's Markdown, with all columns but the first to the right.

    Control characters and ``|`` in cells are escaped.
    """
    rule = ["---"] + ["---:"] * (len(header) - 1)
    escaped = [
        [printable(cell).replace("|", "\\|") for cell in line] for line in (header, rule, *rows)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)
