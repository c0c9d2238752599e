"""A folder of images is listed, and refused if its layout is wrong, before an image is opened."""

from __future__ import annotations

import contextlib
import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tp_vgg.errors import BadInput, shown

SPLITS = ("train", "test")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Suffixes of the files that are read as images: those of torchvision's ImageFolder."""
_OTHER_SPLITS = ("val", "valid", "validation", "dev", "eval")
"""Names that other programs give to the directory of images that are held out."""
_NOT_DATA = {
    "__macosx",
    "thumbs.db",
    "desktop.ini",
    "@eadir",
    "lost+found",
    "$recycle.bin",
    "system volume information",
}
"""Names, in lower case, that systems leave in folders; those with a leading dot are not listed."""
_NAMED = 3
"""Most names of a kind in a message; the rest is a count."""

Listing = dict[str, list[tuple[str, int, int]]]
"""(path in the class's directory, bytes, mtime in ns) of every image, by class."""


def list_split(root: Path, split: str) -> Listing:
    """Return the images of each class of a split, in the order of torchvision's ImageFolder.

    Names that begin with a dot, and those that systems leave in folders, are skipped at any depth.

    Raises :class:`BadInput` if the split is missing or has no classes, if a class has no images,
    and for a directory that can't be read.
    """
    base = root / split
    if not base.is_dir():
        raise BadInput(_no_split(root, split))
    listing: Listing = {}
    for name in sorted(entry.name for entry in _entries(base) if entry.is_dir()):
        files = sorted(_images(base / name), key=lambda file: file[0].rpartition("/")[::2])
        if not files:
            raise BadInput(_no_images(base / name))
        listing[name] = files
    if not listing:
        loose = sum(_is_image(entry.name) for entry in _entries(base))
        reason = (
            f"; {_counted(loose, 'image')} beside them must go into the directory of a class"
            if loose
            else ""
        )
        raise BadInput(
            f"--data-dir: {base} has no class directories; expected {split}/CLASS/IMAGE{reason}"
        )
    return listing


def check_same_classes(root: Path, listing: dict[str, Listing]) -> None:
    """Raise :class:`BadInput`, which names the odd classes, if the splits' classes differ."""
    if set(listing["train"]) != set(listing["test"]):
        raise BadInput(_unshared(root, listing))


def alike(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the groups of names that differ only in case, blanks or the form of accents."""
    groups: dict[str, list[str]] = {}
    for name in names:
        plain = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        groups.setdefault(plain, []).append(name)
    return [tuple(sorted(group)) for group in groups.values() if len(group) > 1]


def _entries(directory: Path) -> Iterator[os.DirEntry[str]]:
    """Yield the entries of ``directory`` that may be data."""
    with _readable(directory), os.scandir(directory) as entries:
        for entry in entries:
            if _is_data(entry.name):
                yield entry


@contextlib.contextmanager
def _readable(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadInput(
            f"--data-dir: {directory}: can't be read ({error.strerror}); "
            "change its permissions, or move it away"
        ) from None


def _images(
    base: Path, under: str = "", above: tuple[tuple[int, int], ...] = ()
) -> Iterator[tuple[str, int, int]]:
    """Yield (path relative to ``base``, bytes, mtime in ns) of every image in it, at any depth.

    ``above``: device and inode of the directories on the way. A dangling symbolic link with an
    image's suffix raises :class:`OSError`.
    """
    directory = base / under
    with _readable(directory):
        place = directory.stat()
    if (place.st_dev, place.st_ino) in above:
        raise BadInput(f"--data-dir: {directory}: is a link to a directory around it; remove it")
    above += ((place.st_dev, place.st_ino),)
    for entry in _entries(directory):
        if entry.is_dir():
            yield from _images(base, f"{under}{entry.name}/", above)
        elif _is_image(entry.name):
            try:
                status = entry.stat()
            except FileNotFoundError as error:
                raise FileNotFoundError(
                    error.errno, "is a link to a file that is missing", entry.path
                ) from None
            if stat.S_ISREG(status.st_mode):
                yield f"{under}{entry.name}", status.st_size, status.st_mtime_ns


def _is_data(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in _NOT_DATA


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count != 1 else ''}"


def _named(names: list[str]) -> str:
    """Return the first names quoted, in ASCII, and a count of the rest."""
    rest = len(names) - _NAMED
    return ", ".join(map(shown, names[:_NAMED])) + (f" and {rest} more" if rest > 0 else "")


def _no_split(root: Path, split: str) -> str:
    path = root / split
    expected = f"expected {split}/CLASS/IMAGE in it"
    if path.is_symlink() and not path.exists():
        return f"--data-dir: {path}: is a link to a directory that is missing; mend or remove it"
    if path.exists():
        return f"--data-dir: {path}: is not a directory; {expected}"
    if not root.is_dir():
        kind = "is not a directory" if root.exists() else "no such directory"
        return f"--data-dir: {root}: {kind}; {expected}"
    directories = sorted(entry.name for entry in _entries(root) if entry.is_dir())
    start = f"--data-dir: {root} has no {split}/ directory"
    for name in directories:
        if name.strip().lower() == split:
            return f"{start}, but {shown(name)}; rename it to {split}"
    for name in directories:
        if split == "test" and name.lower() in _OTHER_SPLITS:
            return f"{start}, but {name}/; if its images are for testing, rename or link it to test"
    for name in directories:
        if all((root / name / each).is_dir() for each in SPLITS):
            return f"{start}, but {name}/ has; give --data-dir {root / name}"
    if directories and not {*directories} & {*SPLITS}:
        return f"{start}, only {_named(directories)}; {expected}"
    return f"{start}; {expected}"


def _no_images(directory: Path) -> str:
    shown_names, hidden = [], False
    for _, directories, names in os.walk(directory):
        directories[:] = [name for name in directories if _is_data(name)]
        shown_names += [name for name in names if _is_data(name)]
        hidden |= any(_is_image(name) and name.startswith(".") for name in names)
    start = f"--data-dir: {directory} has no images"
    read = ", ".join(EXTENSIONS)
    if not shown_names:
        reason = "only names with a leading dot, which are skipped" if hidden else "it is empty"
        return f"{start}: {reason}; put images ({read}) in it, or remove it"
    if any(map(_is_image, shown_names)):
        return f"{start} that are regular files; put images in it, or remove it"
    suffixes = Counter(Path(name).suffix.lower() or "without a suffix" for name in shown_names)
    kinds = ", ".join(f"{shown(suffix)[1:-1]} ({n})" for suffix, n in suffixes.most_common(_NAMED))
    rest = len(suffixes) - _NAMED
    more = f" and {rest} more suffixes" if rest > 0 else ""
    return f"{start}, only files {kinds}{more}; convert them ({read} are read), or remove it"


def _unshared(root: Path, listing: dict[str, Listing]) -> str:
    train, test = (set(listing[split]) for split in SPLITS)
    only = {"train": sorted(train - test), "test": sorted(test - train)}
    parts = [f"{_named(names)} ({split}/)" for split, names in only.items() if names]
    message = (
        f"{root}: train/ and test/ must have the same classes; only one has {', '.join(parts)}"
    )
    close = [group for group in alike(train | test) if {*group} & {*only["train"]}]
    if close:
        return (
            f"{message}; {' and '.join(map(shown, close[0]))} differ in case or blanks: rename one"
        )
    for split, names in (("test", only["train"]), ("train", only["test"])):
        for name in names:
            if (root / split / name).exists():
                return f"{message}; {root / split / name} is not a directory: move it away"
    return f"{message}; add the directories that are missing, or remove these"
