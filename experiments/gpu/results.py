"""This module holds the lines of results files, and formats their values (no torch)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tp_vgg.errors import printable
from tp_vgg.report.text_table import markdown_table

NOT_MEASURED = "not measured"
"""Text in place of a value that no result holds."""


class Results:
    """Results hold the lines of one or more rounds, in order.

    A line is a dict with its ``kind``, as :func:`gpu.setting.read_results` reads it.
    """

    def __init__(self, lines: Sequence[dict[str, Any]]) -> None:
        self._lines = lines

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the lines of a kind that name their subject (``name`` or ``group``)."""
        return [line for line in self.all_of(kind) if "name" in line or "group" in line]

    def all_of(self, kind: str) -> list[dict[str, Any]]:
        """Return all lines of a kind."""
        return [line for line in self._lines if line["kind"] == kind]

    def last(self, kind: str) -> dict[str, Any]:
        """Return the last line of a kind; an empty dict if there is none."""
        return (self.all_of(kind) or [{}])[-1]


def amount(value: float | None, digits: int) -> str:
    """Format a number with ``digits`` decimals; ``None`` becomes :data:`NOT_MEASURED`."""
    return NOT_MEASURED if value is None else f"{value:,.{digits}f}"


def interval(value: float | None, low: float | None, high: float | None, digits: int) -> str:
    """Format a number and its 95 % interval with ``digits`` decimals.

    The result is :data:`NOT_MEASURED` if any of the three is ``None``.
    """
    if value is None or low is None or high is None:
        return NOT_MEASURED
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def accuracy(measured: Mapping[str, Any] | None) -> str:
    """Format an accuracy in percent with its 95 % interval.

    ``measured`` has ``accuracy``, ``low`` and ``high``; empty means not measured.
    """
    if not measured:
        return NOT_MEASURED
    return interval(measured["accuracy"], measured["low"], measured["high"], 2)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; :data:`NOT_MEASURED` if there are no rows."""
    return markdown_table(header, rows) if rows else NOT_MEASURED


def listing(values: Mapping[str, Any]) -> str:
    """Return a Markdown list with one name and value per line.

    The result is :data:`NOT_MEASURED` if there are no values.
    """
    return (
        "\n".join(f"- {printable(f'{name}: {value}')}" for name, value in values.items())
        or NOT_MEASURED
    )
