"""Unfinished trainings are kept on disk, each with the key of the training that it belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tp_vgg.files.atomic import write_atomic
from tp_vgg.files.journal import parked_path
from tp_vgg.files.torch_archive import read_archive


def save_partial(path: Path, snapshot: dict[str, Any]) -> None:
    """Write ``snapshot`` to ``path`` atomically.

    It consists of plain types and tensors, with the training's key under ``"key"``.
    """
    write_atomic(path, lambda file: torch.save(snapshot, file))


def find_partial(path: Path, key: str) -> dict[str, Any] | None:
    """Return the snapshot of the training with ``key``, on the CPU, or None if there is none.

    A damaged file counts as none. If ``path`` holds the snapshot of another training, it is renamed
    to its :func:`~tp_vgg.files.journal.parked_path`, where a rerun of that training finds it.
    """
    saved = _read(path)
    if saved is not None and saved["key"] != key:
        path.replace(parked_path(path, saved["key"]))
        saved = None
    parked = parked_path(path, key)
    if saved is None and parked.is_file():
        parked.replace(path)
        saved = _read(path)
    return saved


def _read(path: Path) -> dict[str, Any] | None:
    try:
        saved = read_archive(path)
    except Exception:  # noqa: BLE001  torch documents no errors for torn files
        return None
    if (
        not isinstance(saved, dict)
        or not isinstance(saved.get("key"), str)
        or not saved["key"].isalnum()
    ):
        return None
    return saved
