"""A first Ctrl-C lets the current step finish before the work stops."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def interrupts() -> Iterator[list[int]]:
    """Hold the first Ctrl-C back, so that the current step can finish; a second interrupts at once.

    Yields a list that is empty until the first Ctrl-C arrives; the caller checks it between steps.
    Nothing changes and the list stays empty if SIGINT is ignored or handled outside of Python, or
    if this is not the main thread. The previous handler is restored at the end of the block.
    """
    received: list[int] = []

    def handle(number: int, _frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    previous = signal.getsignal(signal.SIGINT)
    if (
        previous in (None, signal.SIG_IGN)
        or threading.current_thread() is not threading.main_thread()
    ):
        yield received  # the handler stays: a background job ignores Ctrl-C on purpose
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield received
    finally:
        signal.signal(signal.SIGINT, previous)
