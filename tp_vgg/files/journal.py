"""A journal records finished pieces of work, so that an interrupted command can resume."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tp_vgg.errors import BadInput
from tp_vgg.files.atomic import make_directory, sync_directory

_BEGIN = b'{"key"'
"""The first bytes of every journal."""


def parked_path(path: Path, key: str) -> Path:
    """Return the path to which unfinished work is moved while other work uses ``path``."""
    return path.with_name(f"{key[:8]}.{path.name}")


class Journal:
    """A journal is an append-only file of JSON lines, one per finished piece of work.

    Its first line holds the key of the work. A torn line and everything after it are dropped. If
    ``path`` holds the journal of other work, that is moved to :func:`parked_path`, where a rerun of
    that work finds it. Raises :class:`BadInput` if ``path`` is a link or not a regular file.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise BadInput(f"{path}: is not a journal; move it away")
        found_key, entries, intact_bytes = _read_lines(path)
        if found_key is not None and found_key != key:
            path.replace(parked_path(path, found_key))
        parked = parked_path(path, key)
        if found_key != key and parked.is_file():
            parked.replace(path)
            found_key, entries, intact_bytes = _read_lines(path)
        if found_key != key:
            entries, intact_bytes = [], 0
        self.entries = entries
        """Entries that were on the disk when the journal was opened, in order."""
        if path.is_file():
            os.truncate(path, intact_bytes)
        if not intact_bytes:
            make_directory(path.parent)
            self.append({"key": key})
            sync_directory(path.parent)

    @staticmethod
    def key_of(path: Path) -> str | None:
        """Return the key of the journal at ``path``; None if there is no journal."""
        return _read_lines(path)[0]

    @staticmethod
    def is_other(path: Path) -> bool:
        """Return True if a file lies at ``path`` that no journal began, whole or torn."""
        if not path.is_file() or Journal.key_of(path) is not None:
            return False
        start = path.read_bytes()[: len(_BEGIN)]
        return start != _BEGIN[: len(start)]

    def append(self, *entries: dict[str, Any]) -> None:
        """Append ``entries``; they are on the disk when this returns."""
        with self._path.open("ab") as file:
            file.write(b"".join(json.dumps(entry).encode() + b"\n" for entry in entries))
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Delete the journal, once the finished work is saved elsewhere."""
        self._path.unlink(missing_ok=True)


def _read_lines(path: Path) -> tuple[str | None, list[dict[str, Any]], int]:
    """Return the key in the first line, the entries after it, and how many bytes all these take.

    Reading stops at the first line that is torn or not a JSON object. Without an alphanumeric key
    the result is (None, [], 0).
    """
    entries, intact_bytes = [], 0
    if path.is_file():
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not line.endswith(b"\n") or not isinstance(entry, dict):
                break
            entries.append(entry)
            intact_bytes += len(line)
    key = entries[0].get("key") if entries else None
    if not isinstance(key, str) or not key.isalnum():
        return None, [], 0
    return key, entries[1:], intact_bytes
