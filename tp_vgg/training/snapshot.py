"""Unfinished work on the disk, each piece under the key of the work that it belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tp_vgg.files.atomic import write_atomic
from tp_vgg.files.journal import parked_path
from tp_vgg.files.torch_archive import read_archive


def save_partial(path: Path, snapshot: dict[str, Any]) -> None:
    """Write ``snapshot`` (plain types and tensors, its key under ``"key"``), whole or not at all."""
    write_atomic(path, lambda file: torch.save(snapshot, file))


def find_partial(path: Path, key: str) -> dict[str, Any] | None:
    """The snapshot of the work ``key``, on the CPU; ``None`` where there is none, and the work starts over.

    Other work's snapshot under ``path`` is put parked_path under a name with its key, where a rerun of that work finds it.
    """
    saved = _read(path)
    if saved is not None and saved["key"] != key:
        path.replace(parked_path(path, saved["key"]))
        saved = None
    mine = parked_path(path, key)
    if saved is None and mine.is_file():
        mine.replace(path)
        saved = _read(path)
    return saved


def _read(path: Path) -> dict[str, Any] | None:
    try:
        saved = read_archive(path)
    except Exception:  # noqa: BLE001  what a torn file raises is not documented
        return None
    if (
        not isinstance(saved, dict)
        or not isinstance(saved.get("key"), str)
        or not saved["key"].isalnum()
    ):
        return None
    return saved
