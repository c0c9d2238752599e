"""An append-only journal of finished work, under the key of that work."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tp_vgg.errors import BadInput
from tp_vgg.files.atomic import sync_directory


def parked_path(path: Path, key: str) -> Path:
    """Where unfinished work of the name ``path`` lies while other work has the name."""
    return path.with_name(f"{key[:8]}.{path.name}")


class Journal:
    """Finished pieces of work as JSON lines, each on the disk before the next is begun.

    The first line holds the key of the work. What a torn line and all behind it said is dropped; other work's journal of the same
    name is put parked_path, where a rerun of that work finds it.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise BadInput(f"{path}: is not a journal; move it away")
        found, entries, whole = _read_lines(path)
        if found is not None and found != key:
            path.replace(parked_path(path, found))
        mine = parked_path(path, key)
        if found != key and mine.is_file():
            mine.replace(path)
            found, entries, whole = _read_lines(path)
        if found != key:
            entries, whole = [], 0
        self.entries = entries
        """What was on the disk when the journal was opened, in order."""
        if path.is_file():
            os.truncate(path, whole)
        if not whole:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.append({"key": key})
            sync_directory(path.parent)

    @staticmethod
    def key_of(path: Path) -> str | None:
        """Whose journal lies at ``path``, if any does."""
        return _read_lines(path)[0]

    def append(self, *entries: dict[str, Any]) -> None:
        """Write ``entries`` behind the others; they are on the disk when this returns."""
        with self._path.open("ab") as file:
            file.write(b"".join(json.dumps(entry).encode() + b"\n" for entry in entries))
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """The work is finished and stands elsewhere."""
        self._path.unlink(missing_ok=True)


def _read_lines(path: Path) -> tuple[str | None, list[dict[str, Any]], int]:
    """The key in the first line of ``path`` (``None`` where there is none), the whole JSON objects behind it, and the bytes that all
    of these take."""
    entries, whole = [], 0
    if path.is_file():
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not line.endswith(b"\n") or not isinstance(entry, dict):
                break
            entries.append(entry)
            whole += len(line)
    key = entries[0].get("key") if entries else None
    return (key, entries[1:], whole) if isinstance(key, str) and key.isalnum() else (None, [], 0)
