"""The lines of results files by their kind, and how tables show them (no torch)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tp_vgg.errors import printable
from tp_vgg.report.text_table import markdown_table

NOT_MEASURED = "not measured"


class Results:
    """The lines of one or more rounds, in order."""

    def __init__(self, lines: Sequence[dict[str, Any]]) -> None:
        self._lines = lines

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The lines of a kind that say what they are about."""
        return [line for line in self.all_of(kind) if "name" in line or "group" in line]

    def all_of(self, kind: str) -> list[dict[str, Any]]:
        """The lines of a kind."""
        return [line for line in self._lines if line["kind"] == kind]

    def last(self, kind: str) -> dict[str, Any]:
        """The last line of a kind; an empty one where there is none."""
        return (self.all_of(kind) or [{}])[-1]


def amount(value: float | None, digits: int) -> str:
    """A number with so many digits behind the point, or that it was not measured."""
    return NOT_MEASURED if value is None else f"{value:,.{digits}f}"


def interval(value: float | None, low: float | None, high: float | None, digits: int) -> str:
    """A number with its 95 % interval."""
    if value is None or low is None or high is None:
        return NOT_MEASURED
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def accuracy(measured: Mapping[str, Any] | None) -> str:
    """An accuracy with its 95 % interval, in percent."""
    if not measured:
        return NOT_MEASURED
    return interval(measured["accuracy"], measured["low"], measured["high"], 2)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; without rows, that nothing was measured."""
    return markdown_table(header, rows) if rows else NOT_MEASURED


def listing(values: Mapping[str, Any]) -> str:
    """Names and values, a line each."""
    return (
        "\n".join(f"- {printable(f'{name}: {value}')}" for name, value in values.items())
        or NOT_MEASURED
    )
