"""Sweeps that are interrupted."""

from __future__ import annotations

import pytest

from tp_vgg.files.journal import Journal


def interrupted(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Interrupt a sweep just before its ``after``-th layer is written."""
    seen: list[int] = []
    append = Journal.append

    def dying(self: Journal, *entries: dict) -> None:
        if "layer" in entries[0]:
            seen.append(1)
            if len(seen) == after:
                raise KeyboardInterrupt
        append(self, *entries)

    monkeypatch.setattr(Journal, "append", dying)
