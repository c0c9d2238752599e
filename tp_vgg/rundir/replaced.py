"""Finished results that give way to others are kept in ``replaced/``, one directory per set."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

from tp_vgg.errors import BadInput
from tp_vgg.files.atomic import sync_directory
from tp_vgg.rundir.layout import REPLACED

log = logging.getLogger(__name__)

_PARTIAL = ".partial"
LARGE = 10**9
"""Bytes in ``replaced/`` above which a note says its size."""


def put_away(
    directory: Path, key: str, files: Iterable[Path], copies: Iterable[Path] = ()
) -> Path | None:
    """Move a set of finished files out of ``directory`` and log where they are now.

    ``files``: those of the set, in ``directory``; missing ones are skipped. Give the record last,
    because it says that the others are finished. ``copies``: files that the set shares with others,
    which are copied. They keep their names and their folders below ``replaced/KEY8``; ``KEY8`` is
    the beginning of ``key``, with a number if that directory exists. Returns the directory, or
    ``None`` if there are no files.

    After a crash the files lie in ``directory`` or in ``replaced/KEY8.partial``. The next set with
    that key goes on there, and :func:`settle` gives the directory its name.
    """
    files = [path for path in dict.fromkeys(files) if path.is_file()]
    copies = [path for path in copies if path.is_file()]
    if not files and not copies:
        return None
    name = key[:8] if key.isalnum() else "unknown"  # a record may hold any text
    unfinished = directory / REPLACED / f"{name}{_PARTIAL}"
    for path in copies:
        shutil.copy2(path, _place_for(path, directory, unfinished))
    for path in files:
        target = _place_for(path, directory, unfinished)
        if path.is_relative_to(directory):
            path.replace(target)
        else:  # perhaps on another disk
            shutil.move(path, target)
    place = _named(unfinished)
    names = ", ".join(path.name for path in files or copies if path.suffix != ".png")
    log.info(f"{place}: holds what was here before ({names}){_size_note(place.parent)}")
    return place


def settle(directory: Path) -> None:
    """Give the sets in ``directory`` their names that a crash has left with a partial one."""
    for path in sorted((directory / REPLACED).glob(f"*{_PARTIAL}")):
        _named(path)


def check_replaced(directory: Path) -> None:
    """Raise :class:`BadInput` if ``replaced`` in a run directory is not a directory of its own."""
    path = directory / REPLACED
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise BadInput(f"{path}: is not a directory; former results go there; move it away")


def _named(unfinished: Path) -> Path:
    """Rename ``KEY8.partial`` to ``KEY8``, with a number if that is there, and return the path."""
    place = first = unfinished.with_name(unfinished.name.removesuffix(_PARTIAL))
    number = 2
    while place.exists():
        place, number = first.with_name(f"{first.name}-{number}"), number + 1
    unfinished.replace(place)
    sync_directory(place.parent)
    return place


def _place_for(path: Path, directory: Path, unfinished: Path) -> Path:
    inside = path.relative_to(directory) if path.is_relative_to(directory) else Path(path.name)
    target = unfinished / inside
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _size_note(directory: Path) -> str:
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    return "" if size <= LARGE else f"; {directory} takes {size / 1e9:.1f} GB, delete it if unused"
