"""Users follow a running command through notes (standard logging) and progress bars.

A module writes a note by ``logging.getLogger(__name__).info``. The command line shows notes on
stderr; a program that imports tp_vgg configures the logger ``tp_vgg``. No torch is imported.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from tp_vgg.errors import printable

if TYPE_CHECKING:
    from tqdm import tqdm

LOGGER = logging.getLogger("tp_vgg")
MOST_COLUMNS = 10_000
"""Widest terminal that is believed; a wider ``COLUMNS`` is ignored."""


def progress_bar(
    label: str,
    iterable: Iterable[Any] | None = None,
    *,
    unit: str,
    quiet: bool = False,
    **options: Any,
) -> tqdm[Any]:
    """Return a progress bar on stderr, shown only if stderr is a terminal.

    The bar is disabled if ``quiet`` is set or ``label`` is empty. ``iterable``, ``unit`` (what is
    counted, such as ``img``) and ``options`` are passed to tqdm.
    """
    # Importing tqdm takes as long as everything else that a refused command needs.
    from tqdm import tqdm

    return tqdm(iterable, label, unit=unit, disable=True if quiet or not label else None, **options)


class _NotesOnStderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note_on_stderr(record.getMessage())


def note_on_stderr(text: str) -> None:
    """Write a note on stderr.

    On a terminal it wraps between words; in a file or a pipe it stays one line, which can be
    searched for.
    """
    line_on_stderr(fitted(text, sys.stderr))


def line_on_stderr(line: str) -> None:
    """Write a line on stderr; progress bars that are shown there move down."""
    if (bars := sys.modules.get("tqdm")) is not None:
        bars.tqdm.write(line, file=sys.stderr)
    else:
        sys.stderr.write(f"{line}\n")


def fitted(text: str, stream: TextIO) -> str:
    """Return a line of text as ``stream`` shows it, with control characters escaped.

    For a terminal it wraps between words; for a file or a pipe it stays one line, which can be
    searched for.
    """
    return wrapped(printable(text), terminal_width(stream) if stream.isatty() else None)


def terminal_width(stream: TextIO) -> int | None:
    """Return the number of characters in a line of the terminal that ``stream`` writes to.

    ``COLUMNS`` comes first, if it is a positive number; else the result is ``None`` if ``stream``
    is no terminal.
    """
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and columns.isascii() and 0 < int(columns) <= MOST_COLUMNS:
        return int(columns)
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError, AttributeError):  # no terminal, closed, or not a file
        return None


def wrapped(text: str, width: int | None, *, indent: str = "") -> str:
    """Return one line of text as lines of at most ``width`` characters, broken between words.

    A word that is longer, such as a path, stays whole in a line of its own. ``indent`` is put
    before every line. Characters that take two places count as two. A number and its % stay
    together. ``None`` is no limit.
    """
    if width is None:
        return indent + text
    from rich.cells import cell_len

    lines: list[str] = []
    for word in re.split(" (?!%)", text):
        if lines and cell_len(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(indent + word)
    return "\n".join(line.rstrip() for line in lines)


@contextmanager
def notes_on_stderr() -> Iterator[None]:
    """Show notes as lines on stderr for the duration of the block.

    They are not passed on to the root logger, so other logging in the process does not repeat them.
    """
    handler, level, propagate = _NotesOnStderr(), LOGGER.level, LOGGER.propagate
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    try:
        # It says that it builds a cache of fonts, or that it can't keep one: no figure changes.
        with hushed("matplotlib"):
            yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)
        LOGGER.propagate = propagate


@contextmanager
def muted(quiet: bool = True) -> Iterator[None]:
    """Hide notes for the duration of the block if ``quiet``; warnings are still shown."""
    level = LOGGER.level
    if quiet:
        LOGGER.setLevel(logging.WARNING)
    try:
        yield
    finally:
        LOGGER.setLevel(level)


@contextmanager
def hushed(*names: str) -> Iterator[None]:
    """Hide what the loggers ``names`` of libraries say below an error, in the block."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def is_main_process() -> bool:
    """Return True in the process that prints: the only one, or the first of torchrun's."""
    return os.environ.get("RANK", "0") == "0"
