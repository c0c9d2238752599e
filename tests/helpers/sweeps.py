"""Sweeps that die."""

from __future__ import annotations

import pytest

from tp_vgg.files.journal import Journal


def interrupted(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let a sweep die as its ``after``-th layer is about to be written."""
    seen: list[int] = []
    append = Journal.append

    def dying(self: Journal, *entries: dict) -> None:
        if "layer" in entries[0]:
            seen.append(1)
            if len(seen) == after:
                raise KeyboardInterrupt
        append(self, *entries)

    monkeypatch.setattr(Journal, "append", dying)
