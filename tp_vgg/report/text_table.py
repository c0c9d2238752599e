"""Rows of text as an aligned table or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from tp_vgg.errors import printable


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """First column to the left, numbers to the right, two spaces between."""
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
    """GitHub's pipe table, numbers to the right."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    escaped = [
        [printable(cell).replace("|", "\\|") for cell in line] for line in (header, rule, *rows)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)
