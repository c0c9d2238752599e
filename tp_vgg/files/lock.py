"""A run directory is locked while a command works in it."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from tp_vgg.errors import BadInput

log = logging.getLogger(__name__)

_TEMPORARY = re.compile(r".+\.[a-z0-9_]{8}\.partial")
"""Names that :func:`~tp_vgg.files.atomic.write_atomic` gives to unfinished files."""
_LEAD = "\n" if os.name == "nt" else ""
"""Text before the pid: on Windows nobody else can read the first byte of a locked file."""
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock on ``directory``, so that one command at a time works in it.

    A missing directory is created. Raises :class:`BadInput` if another process holds the lock
    (naming its pid), or if the lock is a link or not a regular file: a link's target would be
    overwritten. The system frees the lock of a process that dies. Unfinished files that such a
    process left, up to three levels deep, are deleted.

    If the system or the file system has no locks, a note says so and the work goes on without one.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = directory / ".lock"
    if lock.is_symlink() or (lock.exists() and not lock.is_file()):
        raise BadInput(f"{lock}: is not the lock of a run directory; move it away")
    with lock.open("a+", encoding="utf-8", errors="replace", newline="") as file:
        if not _acquired(file.fileno(), directory):
            raise BadInput(
                f"{directory}: in use by process {_holder(lock)}; wait for it, or give another "
                "--out"
            )
        file.truncate(0)
        file.write(f"{_LEAD}{os.getpid()}\n")
        file.flush()
        # The deepest directory with files is OUT/TAG/pareto-BUDGET/plots.
        for path in (
            path
            for depth in ("", "*/", "*/*/", "*/*/*/")
            for path in directory.glob(f"{depth}*.partial")
        ):
            if _TEMPORARY.fullmatch(path.name) and not path.is_dir():
                path.unlink(missing_ok=True)
        yield


def _acquired(descriptor: int, directory: Path) -> bool:
    from filelock import lock_descriptor

    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        log.info(f"{directory}: can't be locked here; run one command at a time in it")
        return True


def _holder(lock: Path) -> str:
    with contextlib.suppress(OSError), lock.open("rb", buffering=0) as file:
        file.seek(len(_LEAD))
        return file.read(32).decode(errors="replace").strip() or "unknown"
    return "unknown"
