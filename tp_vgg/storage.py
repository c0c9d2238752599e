"""Files that are whole or absent: atomic writes, fingerprints, and the lock on a run directory (no torch)."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tp_vgg.errors import BadInput

MAX_JSON = 64 << 20
"""Bytes of a record; a long sweep's has some thousands."""
_DEEPEST = 20
"""Of objects and lists in each other."""

_TEMPORARY = re.compile(r".+\.[a-z0-9_]{8}\.partial")
"""What :func:`write_atomic` calls a file that is not whole."""


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a file that appears under ``path`` only once it is whole and on the disk.

    Until then it lies beside it as ``NAME.*.partial``; whatever goes wrong, ``path`` is left as it was. Raises :class:`BadInput` for a
    directory of that name.
    """
    if path.is_dir():
        raise BadInput(f"{path}: is a directory; move it away")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".partial", dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o666 & ~_umask())
        rename(partial, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
            raise error.__context__ from None  # torch.save trips over its own clean-up and hides what the disk said
        raise


def rename(source: Path, target: Path) -> None:
    """Give a finished file its final name, in the same directory, and make that last."""
    source.replace(target)
    _sync_directory(target.parent)


def write_text(path: Path, text: str) -> None:
    """:func:`write_atomic` for UTF-8 text; what has no UTF-8 (of a file's name that is none) stands as its escape."""
    write_atomic(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def write_json(path: Path, data: object) -> None:
    """:func:`write_atomic` for JSON; NaN and Infinity are refused."""
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in ``path``; ``None`` where there is no file. Raises :class:`BadInput` for anything else, and for numbers that are none."""
    try:
        data = json.loads(read_text(path, MAX_JSON), parse_float=_finite, parse_constant=_finite)
        if _is_deep(data):
            raise ValueError("too deep")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        raise BadInput(f"{path}: can't be read as JSON; delete it and run its stage again") from None
    if not isinstance(data, dict):
        raise BadInput(f"{path}: must be a JSON object; delete it and run its stage again")
    return data


def read_text(path: Path, most: int) -> str:
    """The UTF-8 text of a regular file of ``most`` bytes at most. Raises ``OSError`` or ``ValueError`` for any other; a pipe or a device
    is not waited for."""
    if path.exists() and not path.is_file():
        raise OSError(f"{path}: not a regular file")
    with path.open("rb") as file:
        raw = file.read(most + 1)
    if len(raw) > most:
        raise ValueError(f"{path}: over {most} bytes")
    return raw.decode()


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a number")
    return value


def _is_deep(data: object, left: int = _DEEPEST) -> bool:
    inner = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    return left == 0 or any(_is_deep(one, left - 1) for one in inner)


def fingerprint(*parts: object) -> str:
    """SHA-256 (hex) over ``parts``: bytes and buffers as they are, anything else as canonical JSON."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part if isinstance(part, bytes | memoryview) else json.dumps(part, sort_keys=True).encode()
        length = (
            1 if isinstance(raw, memoryview) and not raw.ndim else len(raw)
        )  # a scalar has no length since Python 3.12
        digest.update(length.to_bytes(8, "big"))
        digest.update(raw)
    return digest.hexdigest()


def file_fingerprint(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def aside(path: Path, key: str) -> Path:
    """Where unfinished work of the name ``path`` lies while other work has the name."""
    return path.with_name(f"{key[:8]}.{path.name}")


class Journal:
    """Finished pieces of work as JSON lines, each on the disk before the next is begun.

    The first line holds the key of the work. What a torn line and all behind it said is dropped; other work's journal of the same
    name is put aside, where a rerun of that work finds it.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise BadInput(f"{path}: is not a journal; move it away")
        found, entries, whole = _read_lines(path)
        if found is not None and found != key:
            path.replace(aside(path, found))
        mine = aside(path, key)
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
            _sync_directory(path.parent)

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


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold ``directory`` (made where missing) for one command at a time.

    Raises :class:`BadInput` naming the holder's pid, and for a lock that is no file of its own: a link's target would be written over.
    The system frees the lock of a process that dies; what it was writing is removed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = directory / ".lock"
    if lock.is_symlink() or (lock.exists() and not lock.is_file()):
        raise BadInput(f"{lock}: is not the lock of a run directory; move it away")
    with lock.open("a+", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(32).strip() or "unknown"
            raise BadInput(f"{directory}: in use by process {holder}; wait for it, or give another --out") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        for path in (
            path for depth in ("", "*/", "*/*/") for path in directory.glob(f"{depth}*.partial")
        ):  # OUT/TAG/plots
            if _TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)
        yield


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
