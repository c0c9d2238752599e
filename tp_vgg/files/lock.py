"""The lock on a run directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path

from tp_vgg.errors import BadInput

_TEMPORARY = re.compile(r".+\.[a-z0-9_]{8}\.partial")
"""What :func:`~tp_vgg.files.atomic.write_atomic` calls a file that is not whole."""


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
            raise BadInput(
                f"{directory}: in use by process {holder}; wait for it, or give another --out"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        for path in (
            path for depth in ("", "*/", "*/*/") for path in directory.glob(f"{depth}*.partial")
        ):  # OUT/TAG/plots
            if _TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)
        yield
