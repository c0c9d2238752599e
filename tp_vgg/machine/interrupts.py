"""Ctrl-C that lets the work in hand end whole."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def interrupts() -> Iterator[list[int]]:
    """A list that the first Ctrl-C fills, so that the step in hand ends whole; a second one interrupts at once."""
    asked: list[int] = []

    def handle(number: int, _frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    previous = signal.getsignal(signal.SIGINT)
    if (
        previous in (None, signal.SIG_IGN)
        or threading.current_thread() is not threading.main_thread()
    ):
        yield asked  # not ours to change: a background job ignores Ctrl-C on purpose
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, previous)
