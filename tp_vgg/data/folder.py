"""A folder of images is decoded once to uint8 arrays, which are cached beside the images."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tp_vgg.data.catalogue import IMAGE_SIZE
from tp_vgg.data.folder_cache import CACHE, Folder, read_cache, read_header, write_cache
from tp_vgg.data.listing import SPLITS, Listing, alike, check_same_classes
from tp_vgg.data.listing import list_split as _list
from tp_vgg.errors import BadInput, WorkFailed, shown
from tp_vgg.files.fingerprint import fingerprint
from tp_vgg.machine.console import progress_bar

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)


SIZE = IMAGE_SIZE
"""Side in pixels of the images of every data set, by default."""
IMAGE_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
"""Formats that are tried on a file, whatever its name.

Pillow's other decoders are rarely used and have had holes (CVE-2026-25990 in PSD)."""
_FORMAT = "4"  # part of the cache's key: raise it to make older caches invalid


def class_names(root: Path) -> tuple[str, ...]:
    """Return the names of the classes in ``root``, in the order of the labels; no image is opened.

    Raises :class:`BadInput` as :func:`read_folder` does, but not for images.
    """
    return tuple(_listings(root)["train"])


def cached_fingerprint(root: Path, size: int, *, skip_corrupt: bool = False) -> str | None:
    """Return the fingerprint of :func:`read_folder` from the cache; None if there is no valid one.

    Neither images nor pixels are read. Raises :class:`BadInput` as
    :func:`read_folder` does, but not for images.
    """
    header = read_header(root / CACHE, _key(_listings(root), size, skip_corrupt))
    return header["fingerprint"] if header else None


def folder_fingerprint(
    root: Path, size: int, quiet: bool = False, *, skip_corrupt: bool = False
) -> str:
    """Return the fingerprint of :func:`read_folder`, without reading pixels if the cache is valid.

    Otherwise all images are decoded. Raises :class:`BadInput` as :func:`read_folder` does.
    """
    return (
        cached_fingerprint(root, size, skip_corrupt=skip_corrupt)
        or _decoded(root, size, quiet, skip_corrupt).fingerprint
    )


def read_folder(
    root: Path, size: int, quiet: bool = False, *, skip_corrupt: bool = False
) -> Folder:
    """Decode the images of ``root/train`` and ``root/test``, or read them from the cache.

    Each split has one directory per class. Every image becomes 8-bit RGB; its shorter side is
    resized to ``size`` pixels, and the central square is kept. The cache is valid while names,
    sizes and times of all files stay the same. Notes say if images were resized or left out.

    Raises :class:`BadInput` for a missing split, for a class without images, for classes that
    differ between the splits, and for files that can't be decoded (the first is named, the others
    are counted). With ``skip_corrupt`` such files are left out and their number is logged, as long
    as each class keeps an image in each split.
    """
    folder = _decoded(root, size, quiet, skip_corrupt)
    if folder.resized:
        log.info(
            f"images of {root} are resized to {size}x{size} (shorter side, then the central square)"
        )
    if folder.corrupt:
        decoded_count = sum(len(folder.arrays[f"{split}_labels"]) for split in SPLITS)
        log.info(
            f"{folder.corrupt} of {folder.corrupt + decoded_count} images in {root} "
            "can't be decoded and are left out"
        )
    for names in alike(folder.classes):
        log.info(
            f"{root}: {' and '.join(map(shown, names))} are different classes, "
            "but differ in case or blanks alone"
        )
    return folder


def _decoded(root: Path, size: int, quiet: bool, skip_corrupt: bool) -> Folder:
    listing = _listings(root)
    key = _key(listing, size, skip_corrupt)
    folder = read_cache(root / CACHE, key)
    if folder is not None:
        return folder
    names = tuple(listing["train"])
    arrays: dict[str, np.ndarray] = {}
    sizes: set[tuple[int, int]] = set()
    corrupt = 0
    check_room(sum(len(files) for split in SPLITS for files in listing[split].values()), size)
    for split in SPLITS:
        paths = [root / split / name / entry[0] for name in names for entry in listing[split][name]]
        images, reasons = _decode(paths, size, f"decoding {split}", quiet, sizes)
        if reasons and not skip_corrupt:
            first = min(reasons)
            others = f", nor can {len(reasons) - 1} more" if len(reasons) > 1 else ""
            raise BadInput(
                f"{paths[first]}: can't be decoded ({reasons[first]}){others}; "
                "repair or remove, or give --skip-corrupt"
            )
        labels = np.repeat(np.arange(len(names)), [len(listing[split][name]) for name in names])
        if reasons:
            decoded = np.setdiff1d(np.arange(len(paths)), list(reasons))
            for empty_class in np.setdiff1d(labels, labels[decoded])[:1]:
                raise BadInput(
                    f"--data-dir: {root / split / names[empty_class]}: "
                    "none of its images can be decoded"
                )
            images, labels = images[decoded], labels[decoded]
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images, labels
        corrupt += len(reasons)
    digest = fingerprint(list(names), *(arrays[k].data for k in sorted(arrays)))
    statistics = channel_statistics(arrays["train_images"])
    folder = Folder(arrays, names, digest, *statistics, corrupt, sizes != {(size, size)})
    write_cache(root / CACHE, folder, key)
    return folder


def check_room(count: int, size: int) -> None:
    """Raise :class:`WorkFailed` if ``count`` images of side ``size`` do not fit into memory."""
    needed = count * 3 * size**2
    if needed < 1 << 30:
        return  # before torch is imported
    import torch

    from tp_vgg.machine.memory import free_memory

    free = free_memory(torch.device("cpu"))
    if needed > free:
        raise WorkFailed(
            f"{count:,} images of {size}x{size} take {needed >> 20:,} MiB of memory, and "
            f"{free >> 20:,} are free; give a smaller --image-size, or use fewer images"
        )


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation of each channel of uint8 images [N, S, S, C].

    Both are fractions of 255, rounded to four decimals.
    """
    total, squares = np.zeros(images.shape[-1]), np.zeros(images.shape[-1])
    for block in np.array_split(images, max(len(images) // 1000, 1)):
        values = block.reshape(-1, images.shape[-1]).astype(np.float64) / 255
        total += values.sum(0)
        squares += np.square(values).sum(0)
    count = images.size // images.shape[-1]
    mean = total / count
    # The lower bound keeps the normalisation from dividing by zero if a channel is constant.
    std = np.sqrt(np.maximum(squares / count - mean**2, 1e-6))
    return tuple(np.round(mean, 4).tolist()), tuple(np.round(std, 4).tolist())


def _listings(root: Path) -> dict[str, Listing]:
    listing = {split: _list(root, split) for split in SPLITS}
    check_same_classes(root, listing)
    return listing


def _key(listing: dict[str, Listing], size: int, skip_corrupt: bool) -> str:
    return fingerprint(_FORMAT, size, skip_corrupt, listing)


def _decode(
    paths: list[Path],
    size: int,
    label: str,
    quiet: bool,
    sizes: set[tuple[int, int]] | None = None,
) -> tuple[np.ndarray, dict[int, str]]:
    """Return the images, uint8 [N, S, S, 3], and a reason for each that can't be decoded.

    Reasons are keyed by index; the pixels at such an index are undefined. ``label`` names the
    progress bar, which ``quiet`` hides. The (width, height) that images had are added to ``sizes``.
    """
    from PIL import Image, ImageOps

    images = np.empty((len(paths), size, size, 3), np.uint8)
    reasons: dict[int, str] = {}

    def decode(index: int) -> None:
        try:
            with Image.open(paths[index], formats=IMAGE_FORMATS) as image:
                pixels = _rgb(image)
                images[index] = np.asarray(
                    ImageOps.fit(pixels, (size, size), Image.Resampling.BILINEAR)
                )
                if sizes is not None:
                    sizes.add(pixels.size)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reasons[index] = (
                ascii(str(error).splitlines()[0][:80]) if str(error) else type(error).__name__
            )

    with _without_pillows_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(decode, range(len(paths)), chunksize=64)
        for _ in progress_bar(label, results, unit="img", quiet=quiet, total=len(paths)):
            pass
    return images, reasons


@contextlib.contextmanager
def _without_pillows_warnings() -> Iterator[None]:
    """Ignore what Pillow says of images that it decodes all the same: it names no file."""
    from PIL import Image

    with warnings.catch_warnings():
        # Below twice the limit; above that, the image is refused by name.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for text in ("Corrupt EXIF data", "Truncated File Read", "Metadata Warning, tag"):
            warnings.filterwarnings("ignore", text, UserWarning, r"PIL\.TiffImagePlugin")
        yield


def _rgb(image: Image.Image) -> Image.Image:
    """Convert an opened image to 8-bit RGB without alpha, rotated as its EXIF data says.

    16-bit greys are scaled here, because Pillow's conversion clips them at 255, which leaves them
    white. Raises :class:`ValueError` for 32-bit pixels, whose white level is unknown.
    """
    from PIL import Image, ImageOps

    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise ValueError(
            "32-bit pixels have no known white level; save the image with 8 or 16 bits"
        )
    if image.mode.startswith("I"):
        image = Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
    elif "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns if it goes directly to RGB
    return image.convert("RGB")
