"""Data sets as in-memory uint8 tensors on a device, with stratified splits."""

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


@dataclass(frozen=True)
class DataSet:
    """Three splits. ``val`` is min(5,000, 10 %) of train, stratified, always with split seed 0."""

    name: str
    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    normalisation: Normalisation
    flip: bool
    """Whether a mirrored image keeps its class (digits do not)."""
    fingerprint: str
    """SHA-256 over the pixels, labels and class names of all images, whatever the limits."""


def load_data(
    name: str,
    data_dir: Path,
    device: torch.device,
    *,
    limits: tuple[int | None, int | None, int | None] = (None, None, None),
    quiet: bool = False,
    skip_corrupt: bool = False,
) -> DataSet:
    """Load a data set onto ``device``; ``limits`` cap train, val and test to stratified subsets. ``skip_corrupt``: leave out what can't be
    decoded in a folder. What was left out, and how many classes a split misses, is logged.

    Raises :class:`BadInput` for a name that is none and for a folder that is not one, :class:`WorkFailed` when a download fails.
    """
    kind_of(name)
    read: dict[str, Callable[[], DataSet]] = {
        "cifar10": lambda: _cifar10(data_dir),
        "folder": lambda: _folder(data_dir, quiet, skip_corrupt),
        "digits": lambda: _digits(),
    }
    data = read[name]()
    cut = [
        _place(
            split
            if limit is None
            else split.take(stratified(split.labels.numpy(), limit, SPLIT_SEED)),
            device,
        )
        for split, limit in zip((data.train, data.val, data.test), limits, strict=True)
    ]
    if min(map(len, cut)) == 0:
        raise BadInput(
            f"{name}: too few images: train {len(cut[0])}, val {len(cut[1])}, test {len(cut[2])}; each needs one"
        )
    found = replace(data, train=cut[0], val=cut[1], test=cut[2])
    for split in ("train", "val", "test"):
        there = len(getattr(found, split).labels.unique())
        if there < len(found.classes):
            log.info(
                f"{name}: {len(found.classes) - there} of {len(found.classes)} classes have no image in {split}"
            )
    return found


def _digits() -> DataSet:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    scans = torch.from_numpy(bunch.images).float()[:, None].mul_(255 / 16)
    large = (
        torch.nn.functional.interpolate(scans, (SIZE, SIZE), mode="bilinear")
        .round_()
        .to(torch.uint8)
    )
    labels = bunch.target.astype(np.int64)
    images = large.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous()
    every = Split(images.permute(0, 3, 1, 2), torch.from_numpy(labels))
    test = stratified(labels, len(labels) // 5, SPLIT_SEED)
    rest = np.setdiff1d(np.arange(len(labels)), test)
    normalisation = Normalisation(*channel_statistics(images.numpy()[rest]))
    names = tuple(map(str, range(10)))
    return _with_val(
        "digits", every.take(rest), every.take(test), names, flip=False, normalisation=normalisation
    )


def _cifar10(data_dir: Path) -> DataSet:
    from torchvision.datasets import CIFAR10

    try:
        with contextlib.redirect_stdout(sys.stderr):
            parts = [CIFAR10(str(data_dir), train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise WorkFailed(
            f"CIFAR-10 could not be downloaded ({reason}); put it in a directory and give --data-dir, or try --dataset digits"
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
