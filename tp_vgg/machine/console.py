"""What people see while work goes on: notes by the standard library's logging, and progress bars (no torch).

A module says what it has to say by ``logging.getLogger(__name__).info``. The command line shows that on stderr; whoever imports
tp_vgg decides by the configuration of the logger ``tp_vgg``.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tp_vgg.errors import printable

if TYPE_CHECKING:
    from tqdm import tqdm

LOGGER = logging.getLogger("tp_vgg")


def progress_bar(
    label: str, work: Iterable[Any] | None = None, *, unit: str, quiet: bool = False, **options: Any
) -> tqdm[Any]:
    """A bar on stderr, where that is a terminal. There is none where ``quiet``, nor without a ``label``.

    ``work`` and ``options`` are tqdm's.
    """
    from tqdm import tqdm  # takes as long as all else that a refusal needs

    return tqdm(work, label, unit=unit, disable=True if quiet or not label else None, **options)


class _NotesOnStderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{printable(record.getMessage())}\n")


@contextmanager
def notes_on_stderr() -> Iterator[None]:
    """Show notes as lines on stderr, whatever else the process does with logs."""
    handler, level, propagated = _NotesOnStderr(), LOGGER.level, LOGGER.propagate
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)
        LOGGER.propagate = propagated


@contextmanager
def muted(quiet: bool = True) -> Iterator[None]:
    """Show no notes where ``quiet``."""
    level = LOGGER.level
    if quiet:
        LOGGER.setLevel(logging.WARNING)
    try:
        yield
    finally:
        LOGGER.setLevel(level)
