"""An ImageFolder as two uint8 arrays, decoded once and cached beside the images."""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tp_vgg.errors import BadInput
from tp_vgg.files.atomic import write_atomic
from tp_vgg.files.fingerprint import fingerprint
from tp_vgg.machine.console import progress_bar

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)


SIZE = 32
"""Side in pixels of every image of every data set."""
CACHE = ".tp_vgg-cache.safetensors"
SPLITS = ("train", "test")
EXTENSIONS = (
    ".jpg",
    ".jpeg",
    ".png",
    ".ppm",
    ".bmp",
    ".pgm",
    ".tif",
    ".tiff",
    ".webp",
)  # torchvision's
IMAGE_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
"""What is looked for in a file, whatever its name: Pillow's other decoders, rarely used, have had holes (CVE-2026-25990 in PSD)."""
_FORMAT = "4"
_Listings = dict[str, dict[str, list[tuple[str, int, int]]]]


@dataclass(frozen=True)
class Folder:
    """uint8 images [N, S, S, 3] and int64 labels [N] of each split; ``classes`` are the directories' names."""

    arrays: dict[str, np.ndarray]
    classes: tuple[str, ...]
    fingerprint: str
    """SHA-256 over pixels, labels and class names."""
    mean: tuple[float, ...]
    """Of the train images' channels, in [0, 1]."""
    std: tuple[float, ...]
    corrupt: int = 0
    """Files that could not be decoded and were left out."""


def folder_fingerprint(
    root: Path, size: int, quiet: bool = False, *, skip_corrupt: bool = False
) -> str:
    """The fingerprint alone: from the cache's header where that is up to date, else by decoding all."""
    header = _header(root / CACHE, _key(_listings(root), size, skip_corrupt))
    return (
        header["fingerprint"]
        if header
        else read_folder(root, size, quiet, skip_corrupt=skip_corrupt).fingerprint
    )


def read_folder(
    root: Path, size: int, quiet: bool = False, *, skip_corrupt: bool = False
) -> Folder:
    """Decode ``root/train`` and ``root/test`` (a directory a class), or read what was decoded before.

    Every image becomes RGB (:func:`_rgb`), its shorter side resized to ``size`` and its centre cut out. The cache is used only while names, sizes and
    times of all files are as they were. Raises :class:`BadInput` for a missing split, for classes that
    differ between the splits, and for files that can't be decoded (the first is named, the others counted); with ``skip_corrupt`` these are
    left out, with a note, as long as each class keeps one in each split.
    """
    listing = _listings(root)
    names = tuple(listing["train"])
    key = _key(listing, size, skip_corrupt)
    folder = _read_cache(root / CACHE, key)
    if folder is None:
        arrays, corrupt = {}, 0
        for split in SPLITS:
            paths = [
                root / split / name / entry[0] for name in names for entry in listing[split][name]
            ]
            images, reasons = _decode(paths, size, f"decoding {split}", quiet)
            if reasons and not skip_corrupt:
                first = min(reasons)
                others = f", nor can {len(reasons) - 1} more" if len(reasons) > 1 else ""
                raise BadInput(
                    f"{paths[first]}: can't be decoded ({reasons[first]}){others}; repair or remove, or give --skip-corrupt"
                )
            labels = np.repeat(np.arange(len(names)), [len(listing[split][name]) for name in names])
            if reasons:
                whole = np.setdiff1d(np.arange(len(paths)), list(reasons))
                for missing in np.setdiff1d(labels, labels[whole])[:1]:
                    raise BadInput(
                        f"--data-dir: {root / split / names[missing]}: none of its images can be decoded"
                    )
                images, labels = images[whole], labels[whole]
            arrays[f"{split}_images"], arrays[f"{split}_labels"] = images, labels
            corrupt += len(reasons)
        digest = fingerprint(list(names), *(arrays[k].data for k in sorted(arrays)))
        folder = Folder(arrays, names, digest, *channel_statistics(arrays["train_images"]), corrupt)
        _write_cache(root / CACHE, folder, key)
    if folder.corrupt:
        whole_count = sum(len(folder.arrays[f"{split}_labels"]) for split in SPLITS)
        log.info(
            f"{folder.corrupt} of {folder.corrupt + whole_count} images in {root} can't be decoded and are left out"
        )
    return folder


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images [N, S, S, C], as fractions of 255 to four digits."""
    total, squares = np.zeros(images.shape[-1]), np.zeros(images.shape[-1])
    for block in np.array_split(images, max(len(images) // 1000, 1)):
        values = block.reshape(-1, images.shape[-1]).astype(np.float64) / 255
        total += values.sum(0)
        squares += np.square(values).sum(0)
    count = images.size // images.shape[-1]
    mean = total / count
    std = np.sqrt(
        np.maximum(squares / count - mean**2, 1e-6)
    )  # a constant channel still gets a divisor
    return tuple(np.round(mean, 4).tolist()), tuple(np.round(std, 4).tolist())


def _listings(root: Path) -> _Listings:
    listing = {split: _list(root, split) for split in SPLITS}
    odd = sorted(set(listing["train"]) ^ set(listing["test"]))
    if odd:
        raise BadInput(
            f"{root}: train/ and test/ must have the same classes; only one has {odd[0]!a}"
        )
    return listing


def _key(listing: _Listings, size: int, skip_corrupt: bool) -> str:
    return fingerprint(_FORMAT, size, skip_corrupt, listing)


def _list(root: Path, split: str) -> dict[str, list[tuple[str, int, int]]]:
    """(file, bytes, mtime in ns) of every image below a class's directory, by class; both sorted, as ImageFolder has them."""
    base = root / split
    if not base.is_dir():
        raise BadInput(
            f"--data-dir: {root} has no {split}/ directory; expected {split}/CLASS/IMAGE in it"
        )
    found: dict[str, list[tuple[str, int, int]]] = {}
    for name in sorted(entry.name for entry in os.scandir(base) if entry.is_dir()):
        found[name] = sorted(_files(base / name), key=lambda file: file[0].rpartition("/")[::2])
        if not found[name]:
            raise BadInput(f"--data-dir: {base / name} has no images ({', '.join(EXTENSIONS)})")
    if not found:
        raise BadInput(f"--data-dir: {base} has no class directories; expected {split}/CLASS/IMAGE")
    return found


def _files(base: Path, under: str = "") -> Iterator[tuple[str, int, int]]:
    """(path in ``base``, bytes, mtime in ns) of every image in it, at any depth. A link to nothing raises ``OSError``."""
    with os.scandir(base / under) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files(base, f"{under}{entry.name}/")
            elif entry.name.lower().endswith(EXTENSIONS) and stat.S_ISREG(
                (found := entry.stat()).st_mode
            ):
                yield f"{under}{entry.name}", found.st_size, found.st_mtime_ns


def _decode(
    paths: list[Path], size: int, label: str, quiet: bool
) -> tuple[np.ndarray, dict[int, str]]:
    """uint8 [N, S, S, 3], and why those that can't be decoded can't, by their place."""
    from PIL import Image, ImageOps

    images = np.empty((len(paths), size, size, 3), np.uint8)
    reasons: dict[int, str] = {}

    def one(index: int) -> None:
        try:
            with Image.open(paths[index], formats=IMAGE_FORMATS) as image:
                images[index] = np.asarray(
                    ImageOps.fit(_rgb(image), (size, size), Image.Resampling.BILINEAR)
                )
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reasons[index] = (
                ascii(str(error).splitlines()[0][:80]) if str(error) else type(error).__name__
            )

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = pool.map(one, range(len(paths)), chunksize=64)
        for _ in progress_bar(label, done, unit="img", quiet=quiet, total=len(paths)):
            pass
    return images, reasons


def _rgb(image: Image.Image) -> Image.Image:
    """An opened image in 8-bit RGB, the way up that its EXIF says, without its alpha. Raises ``ValueError`` where no range says what is white.

    Pillow's own conversion cuts greys of 16 bits off at 255, which leaves them white.
    """
    from PIL import Image, ImageOps

    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise ValueError("32 bits a pixel have no known white; save it with 8 or 16")
    if image.mode.startswith("I"):
        image = Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
    elif "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, Pillow warns
    return image.convert("RGB")


def _header(path: Path, key: str) -> dict[str, str] | None:
    """The cache's metadata, if the cache is whole and of these very files."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, "numpy") as file:
            meta: dict[str, str] = file.metadata() or {}
    except (SafetensorError, OSError):
        return None
    return meta if meta.get("key") == key else None


def _read_cache(path: Path, key: str) -> Folder | None:
    from safetensors.numpy import load_file

    meta = _header(path, key)
    if meta is None:
        return None
    classes, mean, std = (tuple(json.loads(meta[name])) for name in ("classes", "mean", "std"))
    return Folder(load_file(path), classes, meta["fingerprint"], mean, std, int(meta["corrupt"]))


def _write_cache(path: Path, folder: Folder, key: str) -> None:
    from safetensors.numpy import save

    lists = {name: json.dumps(getattr(folder, name)) for name in ("classes", "mean", "std")}
    meta = {"key": key, "fingerprint": folder.fingerprint, "corrupt": str(folder.corrupt), **lists}
    try:
        write_atomic(path, lambda file: file.write(save(folder.arrays, meta)))
    except OSError as error:
        log.info(
            f"the decoded images could not be cached in {path.parent} ({error.strerror}); the next start decodes again"
        )
