"""Data sets are loaded as uint8 tensors on a device, in stratified splits."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from tp_vgg.data.catalogue import kind_of
from tp_vgg.data.folder import SIZE, channel_statistics, read_folder
from tp_vgg.data.split import SPLIT_SEED, Normalisation, Split, stratified
from tp_vgg.errors import BadInput, WorkFailed
from tp_vgg.files.fingerprint import fingerprint

log = logging.getLogger(__name__)

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
    """SHA-256 (hex) over the pixels, labels and class names of all images, whatever the limits."""


def load_data(
    name: str,
    data_dir: Path,
    device: torch.device,
    *,
    limits: tuple[int | None, int | None, int | None] = (None, None, None),
    quiet: bool = False,
    skip_corrupt: bool = False,
) -> DataSet:
    """Load the data set ``name`` from ``data_dir`` onto ``device``.

    ``limits`` are the largest numbers of images in train, val and test; a larger split is cut to a
    stratified subset. ``quiet`` hides the progress bar. ``skip_corrupt`` leaves out the images of a
    folder that can't be decoded. Their number, and classes without an image in a split, are logged.

    Raises :class:`BadInput` for an unknown name, for a folder without the expected layout or with
    images that can't be decoded, and if a split is empty; :class:`WorkFailed` if a download fails.
    """
    kind_of(name)
    readers: dict[str, Callable[[], DataSet]] = {
        "cifar10": lambda: _cifar10(data_dir),
        "folder": lambda: _folder(data_dir, quiet, skip_corrupt),
        "digits": lambda: _digits(),
    }
    data = readers[name]()
    limited = [
        _place(
            split
            if limit is None
            else split.take(stratified(split.labels.numpy(), limit, SPLIT_SEED)),
            device,
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


def _digits() -> DataSet:
    """Load scikit-learn's digits (8×8, values 0 to 16), enlarged to ``SIZE``; a fifth is test."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    scans = torch.from_numpy(bunch.images).float()[:, None].mul_(255 / 16)
    enlarged = (
        torch.nn.functional.interpolate(scans, (SIZE, SIZE), mode="bilinear")
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
    from torchvision.datasets import CIFAR10

    try:
        with contextlib.redirect_stdout(sys.stderr):
            parts = [CIFAR10(str(data_dir), train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise WorkFailed(
            f"CIFAR-10 could not be downloaded ({reason}); "
            "put it in a directory and give --data-dir, or try --dataset digits"
        ) from None
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


def _folder(root: Path, quiet: bool, skip_corrupt: bool) -> DataSet:
    folder = read_folder(root, SIZE, quiet, skip_corrupt=skip_corrupt)
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


def _place(split: Split, device: torch.device) -> Split:
    return Split(split.images.to(device), split.labels.to(device))
