"""Data sets as in-memory uint8 tensors with stratified splits, and batched augmentation on the device."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tp_vgg.errors import BadInput, WorkFailed
from tp_vgg.folder import SIZE, channel_statistics, read_folder
from tp_vgg.spec import CIFAR10_MEAN, CIFAR10_STD
from tp_vgg.storage import fingerprint

SPLIT_SEED = 0
MAX_VAL = 5000
PAD = 4
"""Pixels by which an image is shifted in training at most."""


@dataclass(frozen=True)
class Normalisation:
    """Per-channel mean and standard deviation of [0, 1] pixels."""

    mean: tuple[float, ...] = CIFAR10_MEAN
    std: tuple[float, ...] = CIFAR10_STD

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> Normalisation:
        """The one that travels with a model's weights, from its ``meta``."""
        return cls(tuple(meta["mean"]), tuple(meta["std"]))

    def on(self, device: torch.device) -> Normaliser:
        """The same with its numbers on ``device``, for those who call it often: sending them waits for the device."""
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=device).view(1, 3, 1, 1)
            for values in (self.mean, self.std)
        )
        return Normaliser(mean, std)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [N, 3, S, S] → float32 of the same shape and memory format."""
        return self.on(images.device)(images)


@dataclass(frozen=True)
class Normaliser:
    """A :class:`Normalisation` whose mean and standard deviation, float32 [1, 3, 1, 1], lie on a device."""

    mean: torch.Tensor
    std: torch.Tensor

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [N, 3, S, S] on that device → float32 of the same shape and memory format."""
        return images.float().div_(255).sub_(self.mean).div_(self.std)


@dataclass(frozen=True)
class Split:
    """``images``: uint8 [N, 3, 32, 32] in channels_last memory; ``labels``: int64 [N]; on one device."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> Split:
        where = torch.from_numpy(indices).to(self.labels.device)
        return Split(self.images.permute(0, 2, 3, 1)[where].permute(0, 3, 1, 2), self.labels[where])

    def blocks(self, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """(images, labels) in order, ``size`` at a time."""
        yield from zip(self.images.split(size), self.labels.split(size), strict=True)


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
    note: Callable[[str], None] = lambda _: None,
    quiet: bool = False,
    skip_corrupt: bool = False,
) -> DataSet:
    """Load a data set onto ``device``; ``limits`` cap train, val and test to stratified subsets. ``skip_corrupt``: leave out what can't be
    decoded in a folder. ``note``: called with what was left out, and with how many classes a split misses.

    Raises :class:`BadInput` for a folder that is not one, :class:`WorkFailed` when a download fails.
    """
    if name == "digits":
        data = _digits()
    elif name == "cifar10":
        data = _cifar10(data_dir)
    else:
        data = _folder(data_dir, note, quiet, skip_corrupt)
    cut = [
        _place(split if limit is None else split.take(stratified(split.labels.numpy(), limit, SPLIT_SEED)), device)
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
            note(f"{name}: {len(found.classes) - there} of {len(found.classes)} classes have no image in {split}")
    return found


def stratified(labels: np.ndarray, n: int, seed: int) -> np.ndarray:
    """``n`` sorted indices with each class in proportion (largest remainders), drawn with ``seed``.

    Our own rather than scikit-learn's, which refuses classes with one member and n below the class count.
    """
    if n >= len(labels):
        return np.arange(len(labels))
    rng = np.random.default_rng(seed)
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * n / len(labels)
    quota = np.floor(exact).astype(int)
    quota[np.argsort(-(exact - quota), kind="stable")[: n - quota.sum()]] += 1
    picked = [rng.permutation(np.flatnonzero(labels == c))[:q] for c, q in zip(classes, quota, strict=True)]
    return np.sort(np.concatenate(picked))


def augment(split: Split, draws: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The images that ``draws`` names, each shifted over a reflected border and turned left to right as it says: (uint8 [B, 3, S, S]
    channels_last, labels [B]). One gather on the device.

    ``draws``: int64 [4, B] on the split's device: which image; by how many pixels it is shifted down and to the right (each from −4 to 4,
    or less than S); 1 where it is turned.
    """
    where, down, right, turned = draws
    side = split.images.shape[-1]
    line = torch.arange(side, device=draws.device)
    rows, columns = (_reflected(shift[:, None] + line, side) for shift in (down, right))
    columns = torch.where(turned[:, None] > 0, columns.flip(1), columns)
    images = split.images.permute(0, 2, 3, 1)[where[:, None, None], rows[:, :, None], columns[:, None, :]]
    return images.permute(0, 3, 1, 2), split.labels[where]


def _reflected(line: torch.Tensor, side: int) -> torch.Tensor:
    return (side - 1) - ((side - 1) - line.abs()).abs()


def _digits() -> DataSet:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    scans = torch.from_numpy(bunch.images).float()[:, None].mul_(255 / 16)
    large = torch.nn.functional.interpolate(scans, (SIZE, SIZE), mode="bilinear").round_().to(torch.uint8)
    labels = bunch.target.astype(np.int64)
    images = large.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous()
    every = Split(images.permute(0, 3, 1, 2), torch.from_numpy(labels))
    test = stratified(labels, len(labels) // 5, SPLIT_SEED)
    rest = np.setdiff1d(np.arange(len(labels)), test)
    normalisation = Normalisation(*channel_statistics(images.numpy()[rest]))
    names = tuple(map(str, range(10)))
    return _with_val("digits", every.take(rest), every.take(test), names, flip=False, normalisation=normalisation)


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
        Split(torch.from_numpy(np.ascontiguousarray(part.data)).permute(0, 3, 1, 2), torch.tensor(part.targets))
        for part in parts
    )
    return _with_val("cifar10", train, test, tuple(parts[0].classes), flip=True, normalisation=Normalisation())


def _folder(root: Path, note: Callable[[str], None], quiet: bool, skip_corrupt: bool) -> DataSet:
    folder = read_folder(root, SIZE, note, quiet, skip_corrupt=skip_corrupt)
    arrays = {name: torch.from_numpy(array) for name, array in folder.arrays.items()}
    train, test = (Split(arrays[f"{s}_images"].permute(0, 3, 1, 2), arrays[f"{s}_labels"]) for s in ("train", "test"))
    normalisation = Normalisation(folder.mean, folder.std)
    return _with_val(
        "folder", train, test, folder.classes, flip=True, normalisation=normalisation, digest=folder.fingerprint
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
