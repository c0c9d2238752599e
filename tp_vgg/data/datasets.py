"""Data sets are loaded as uint8 tensors on a device, in stratified splits."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path

import numpy as np
import torch

from tp_vgg.data.catalogue import kind_of
from tp_vgg.data.cifar10 import cifar10_parts
from tp_vgg.data.folder import SIZE, channel_statistics, check_room, read_folder
from tp_vgg.data.split import SPLIT_SEED, Normalisation, Split, stratified
from tp_vgg.errors import BadInput, shown
from tp_vgg.files.checks import true_or_false
from tp_vgg.files.fingerprint import fingerprint
from tp_vgg.files.read import as_path
from tp_vgg.machine.device import pick_device

log = logging.getLogger(__name__)

SMALLEST, LARGEST = 8, 1024
"""Bounds of the side of images in pixels."""
BLOCK = 1000
"""Number of images that are resized at a time."""
MAX_VAL = 5000
"""Largest number of images that are split off from the training images for val."""


@dataclass(frozen=True)
class DataSet:
    """A data set has three splits, and the facts that training on it needs.

    ``val`` is a stratified draw of min(5,000, 10 %) of the training images, always with split seed
    0, and ``train`` is the rest.
    """

    name: str
    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    normalisation: Normalisation
    flip: bool
    """True if a mirrored image keeps its class (digits do not)."""
    fingerprint: str
    """SHA-256 (hex) over the pixels, labels and class names of all images, whatever the limits.

    It differs for each size of the images."""

    def __repr__(self) -> str:
        size = self.image_size
        return (
            f"<DataSet {self.name}: {len(self.train):,} train, {len(self.val):,} val, "
            f"{len(self.test):,} test images of 3x{size}x{size}, {len(self.classes)} classes, on "
            f"{self.train.images.device}>"
        )

    @property
    def image_size(self) -> int:
        """Return the side of the images in pixels."""
        return self.train.images.shape[-1]


def load_data(
    name: str,
    data_dir: str | Path,
    device: str | torch.device,
    *,
    limits: tuple[int | None, int | None, int | None] = (None, None, None),
    quiet: bool = False,
    skip_corrupt: bool = False,
    image_size: int = SIZE,
) -> DataSet:
    """Load the data set ``name`` from ``data_dir`` onto ``device``.

    ``limits`` are the largest numbers of images in train, val and test; a larger split is cut to a
    stratified subset. ``quiet`` hides the progress bar. ``skip_corrupt`` leaves out the images of a
    folder that can't be decoded. Their number, and classes without an image in a split, are logged.
    ``image_size`` is the side of the images in pixels. They are resized to it if they have another,
    which is logged for ``cifar10`` and ``folder``.

    Raises :class:`BadInput` for an unknown name, a wrong limit or size, for a folder without the
    expected layout or with images that can't be decoded, for a broken copy of CIFAR-10, and if a
    split is empty; :class:`WorkFailed` if a download fails.
    """
    kind_of(name)
    root = as_path(data_dir, "data_dir")
    place = pick_device(device)
    true_or_false("quiet", quiet)
    true_or_false("skip_corrupt", skip_corrupt)
    _check_limits(limits)
    _check_size(image_size)
    readers: dict[str, Callable[[], DataSet]] = {
        "cifar10": lambda: _cifar10(root),
        "folder": lambda: _folder(root, quiet, skip_corrupt, image_size),
        "digits": lambda: _digits(image_size),
    }
    data = readers[name]()
    native = data.image_size
    if native != image_size:
        log.info(f"{name}: images are resized from {native}x{native} to {image_size}x{image_size}")
        data = replace(data, fingerprint=fingerprint(data.fingerprint, image_size))
    limited = [
        _place(
            _resized(
                split
                if limit is None
                else split.take(stratified(split.labels.numpy(), limit, SPLIT_SEED)),
                image_size,
            ),
            place,
        )
        for split, limit in zip((data.train, data.val, data.test), limits, strict=True)
    ]
    train, val, test = limited
    if min(map(len, limited)) == 0:
        raise BadInput(
            f"{name}: too few images: train {len(train)}, val {len(val)}, test {len(test)}; "
            "each needs one"
        )
    total = len(data.classes)
    for split_name, split in (("train", train), ("val", val), ("test", test)):
        present = len(split.labels.unique())
        if present < total:
            log.info(f"{name}: {total - present} of {total} classes have no image in {split_name}")
    return replace(data, train=train, val=val, test=test)


def _check_limits(limits: object) -> None:
    if not isinstance(limits, tuple | list) or len(limits) != 3:
        raise BadInput(
            f"limits: {shown(limits)}: give three, for train, val and test; None for all images"
        )
    for split, limit in zip(("train", "val", "test"), limits, strict=True):
        if limit is not None and not _is_whole(limit, 0):
            raise BadInput(
                f"limits: {split}: {shown(limit)} is not a whole number of images; None for all"
            )


def _check_size(size: object) -> None:
    if not _is_whole(size, SMALLEST, LARGEST):
        raise BadInput(
            f"image_size: {shown(size)} is not a whole number from {SMALLEST} to {LARGEST}"
        )


def _is_whole(value: object, low: int, high: float = math.inf) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and low <= int(value) <= high


def _digits(size: int = SIZE) -> DataSet:
    """Load scikit-learn's digits (8×8, values 0 to 16), enlarged to ``size``; a fifth is test."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    scans = torch.from_numpy(bunch.images).float()[:, None].mul_(255 / 16)
    enlarged = (
        torch.nn.functional.interpolate(scans, (size, size), mode="bilinear")
        .round_()
        .to(torch.uint8)
    )
    labels = bunch.target.astype(np.int64)
    images = enlarged.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous()
    everything = Split(images.permute(0, 3, 1, 2), torch.from_numpy(labels))
    test = stratified(labels, len(labels) // 5, SPLIT_SEED)
    rest = np.setdiff1d(np.arange(len(labels)), test)
    normalisation = Normalisation(*channel_statistics(images.numpy()[rest]))
    names = tuple(map(str, range(10)))
    return _with_val(
        "digits",
        everything.take(rest),
        everything.take(test),
        names,
        flip=False,
        normalisation=normalisation,
    )


def _cifar10(data_dir: Path) -> DataSet:
    parts = cifar10_parts(data_dir)
    train, test = (
        Split(
            torch.from_numpy(np.ascontiguousarray(part.data)).permute(0, 3, 1, 2),
            torch.tensor(part.targets),
        )
        for part in parts
    )
    return _with_val(
        "cifar10", train, test, tuple(parts[0].classes), flip=True, normalisation=Normalisation()
    )


def _folder(root: Path, quiet: bool, skip_corrupt: bool, size: int) -> DataSet:
    folder = read_folder(root, size, quiet, skip_corrupt=skip_corrupt)
    arrays = {name: torch.from_numpy(array) for name, array in folder.arrays.items()}
    train, test = (
        Split(arrays[f"{s}_images"].permute(0, 3, 1, 2), arrays[f"{s}_labels"])
        for s in ("train", "test")
    )
    normalisation = Normalisation(folder.mean, folder.std)
    return _with_val(
        "folder",
        train,
        test,
        folder.classes,
        flip=True,
        normalisation=normalisation,
        digest=folder.fingerprint,
    )


def _with_val(
    name: str,
    train: Split,
    test: Split,
    classes: tuple[str, ...],
    *,
    flip: bool,
    normalisation: Normalisation,
    digest: str | None = None,
) -> DataSet:
    """Split val off from ``train``; ``digest`` is the fingerprint, computed here if None."""
    held_out = stratified(train.labels.numpy(), min(MAX_VAL, len(train) // 10), SPLIT_SEED)
    rest = np.setdiff1d(np.arange(len(train)), held_out)
    parts = [part.images.permute(0, 2, 3, 1).numpy().data for part in (train, test)]
    labels = [part.labels.numpy().data for part in (train, test)]
    return DataSet(
        name=name,
        train=train.take(rest),
        val=train.take(held_out),
        test=test,
        classes=classes,
        normalisation=normalisation,
        flip=flip,
        fingerprint=digest or fingerprint(list(classes), *parts, *labels),
    )


def _resized(split: Split, size: int) -> Split:
    """Return ``split`` with images of that side: antialiased bilinear, a block at a time."""
    if split.images.shape[-1] == size:
        return split
    check_room(len(split), size)
    images = torch.empty((len(split), size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    for start in range(0, len(split), BLOCK):
        images[start : start + BLOCK] = torch.nn.functional.interpolate(
            split.images[start : start + BLOCK], (size, size), mode="bilinear", antialias=True
        )
    return Split(images, split.labels)


def _place(split: Split, device: torch.device) -> Split:
    return Split(split.images.to(device), split.labels.to(device))
