"""A run directory is locked while a command works in it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path

from tp_vgg.errors import BadInput

_TEMPORARY = re.compile(r".+\.[a-z0-9_]{8}\.partial")
"""Names that :func:`~tp_vgg.files.atomic.write_atomic` gives to unfinished files."""


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock on ``directory``, so that one command at a time works in it.

    A missing directory is created. Raises :class:`BadInput` if another process holds the lock
    (naming its pid), or if the lock is a link or not a regular file: a link's target would be
    overwritten. The system frees the lock of a process that dies. Unfinished files that such a
    process left, up to two levels deep, are deleted.
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
        # The deepest directory with files is OUT/TAG/plots.
        for path in (
            path for depth in ("", "*/", "*/*/") for path in directory.glob(f"{depth}*.partial")
        ):
            if _TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)
        yield
