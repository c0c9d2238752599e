"""Every file that is written here is whole or absent, even after a crash."""

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
    """Let ``write`` fill a file that appears at ``path`` only when it is complete and on the disk.

    Until then its bytes are in ``NAME.*.partial`` in the same directory. If anything goes wrong,
    ``path`` stays as it was and the error is raised. Missing directories are created. Raises
    :class:`BadInput` if ``path`` is a directory, or lies below a file.
    """
    if path.is_dir():
        raise BadInput(f"{path}: is a directory; move it away")
    make_directory(path.parent)
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
            # torch.save fails in its own clean-up and so hides the disk's error.
            raise error.__context__ from None
        raise


def make_directory(directory: Path) -> None:
    """Make ``directory`` and those above it; raise :class:`BadInput` if one of them is a file."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise BadInput(f"{directory}: is not a directory; give a path in one") from None


def rename(source: Path, target: Path) -> None:
    """Rename a finished file to ``target``, in the same directory, and sync that to the disk."""
    source.replace(target)
    sync_directory(target.parent)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 by :func:`write_atomic`.

    Characters that UTF-8 can't encode, from an undecodable file name, are written as escapes.
    """
    write_atomic(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def write_json(path: Path, data: object) -> None:
    """Write ``data`` as JSON by :func:`write_atomic`; raises ``ValueError`` for NaN or infinity."""
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def sync_directory(directory: Path) -> None:
    """Sync a directory to the disk, so that the names of new files survive a crash.

    Windows can't open a directory; its file system records names by itself.
    """
    if os.name == "nt":
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
