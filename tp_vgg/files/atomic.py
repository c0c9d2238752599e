"""Files that are whole or absent."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from tp_vgg.errors import BadInput


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
    sync_directory(target.parent)


def write_text(path: Path, text: str) -> None:
    """:func:`write_atomic` for UTF-8 text; what has no UTF-8 (of a file's name that is none) stands as its escape."""
    write_atomic(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def write_json(path: Path, data: object) -> None:
    """:func:`write_atomic` for JSON; NaN and Infinity are refused."""
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
