"""Checks of the results of hostile input."""

from __future__ import annotations

import contextlib
import signal
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser

PATIENCE = 60
"""Seconds that a command may take on a busy machine."""


class Page(HTMLParser):
    """The tags of a page, counted; attributes with event handlers fail."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        assert not [name for name, _ in attrs if name.startswith("on")]


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    """Fail if the block takes longer than :data:`PATIENCE` seconds."""

    def late(*_: object) -> None:
        raise AssertionError(f"nothing came of it in {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
