"""This module holds labelled images, normalises them and draws stratified samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from tp_vgg.errors import BadInput, shown
from tp_vgg.files.checks import MAX_SEED, triple, type_name, whole_number

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
"""Mean and standard deviation of CIFAR-10's channels, for pixels in [0, 1]."""
SPLIT_SEED = 0
"""Seed of every draw that decides which images are in a split."""


@dataclass(frozen=True)
class Normalisation:
    """A normalisation subtracts a mean from each channel and divides by a standard deviation.

    Both are for pixels in [0, 1].
    """

    mean: tuple[float, ...] = CIFAR10_MEAN
    std: tuple[float, ...] = CIFAR10_STD

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> Normalisation:
        """Return the normalisation that is stored in a model's ``meta``.

        Raises :class:`BadInput` if it has no three numbers for ``mean`` and ``std``.
        """
        for name in ("mean", "std"):
            if name not in meta:
                raise BadInput(f"meta: {name}: missing; set model.meta[{name!r}] to three numbers")
        return cls(
            tuple(triple("meta: mean", meta["mean"])),
            tuple(triple("meta: std", meta["std"], positive=True)),
        )

    def on(self, device: torch.device) -> Normaliser:
        """Return the same normalisation with its numbers on ``device``, for repeated use.

        Calling the normalisation itself sends them each time, which waits for the device.
        """
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=device).view(1, 3, 1, 1)
            for values in (self.mean, self.std)
        )
        return Normaliser(mean, std)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise uint8 images [N, 3, S, S] to float32 of the same shape and memory format."""
        return self.on(images.device)(images)


@dataclass(frozen=True)
class Normaliser:
    """A normaliser is a :class:`Normalisation` whose numbers are on a device.

    ``mean`` and ``std`` are float32 [1, 3, 1, 1].
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise uint8 images [N, 3, S, S] on its device to float32.

        Shape and memory format stay the same. Float images are normalised already
        (:class:`NormalisedSplit`), and are returned as they are.
        """
        if images.is_floating_point():
            return images
        return images.float().div_(255).sub_(self.mean).div_(self.std)


@dataclass(frozen=True)
class Split:
    """A split holds images and their labels, both on the same device.

    Raises :class:`BadInput` for another shape or dtype.
    """

    images: torch.Tensor
    """uint8 [N, 3, S, S] in channels_last memory; S is the data set's image size, 32 by default."""
    labels: torch.Tensor
    """int64 [N]."""

    def __post_init__(self) -> None:
        _check_images(self.images)
        _check_labels(self.labels, self.images)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        _, channels, height, width = self.images.shape
        classes = "?" if self.labels.is_meta else len(self.labels.unique())
        return (
            f"<{type(self).__name__}: {len(self):,} images of {channels}x{height}x{width}, "
            f"{_dtype(self.images)}, {classes} classes, on {self.images.device}>"
        )

    def take(self, indices: np.ndarray) -> Split:
        """Return a split with copies of the images and labels at ``indices``, in that order.

        ``indices``: whole numbers [M], negative ones from the end. Raises :class:`BadInput` for
        others, and for one that is out of range.
        """
        chosen = _indices(indices, len(self)).to(self.labels.device)
        images = self.images.permute(0, 2, 3, 1)[chosen].permute(0, 3, 1, 2)
        return replace(self, images=images, labels=self.labels[chosen])

    def blocks(self, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Return (images, labels) in order, ``size`` at a time; the last block may be smaller."""
        size = whole_number("size", size, 1, MAX_SEED)
        return zip(self.images.split(size), self.labels.split(size), strict=True)


@dataclass(frozen=True, repr=False)
class NormalisedSplit(Split):
    """A normalised split holds images as a caller's own loop feeds them to the network.

    Its ``images`` are float32 [N, 3, S, S], and no :class:`Normalisation` changes them.
    """

    def __post_init__(self) -> None:
        _check_form(self.images, "uint8 or float32")
        _check_labels(self.labels, self.images)
        if self.images.dtype != torch.float32:
            raise BadInput(f"images: {_dtype(self.images)} instead of float32; give images.float()")


def _indices(indices: object, count: int) -> torch.Tensor:
    try:
        array = np.asarray(indices.cpu() if isinstance(indices, torch.Tensor) else indices)
        array = array.astype(np.int64) if array.size == 0 or array.dtype.kind in "iu" else array
    except Exception:  # noqa: BLE001  a list in itself, or the caller's own object
        array = np.array(None)
    if array.ndim != 1 or array.dtype != np.int64:
        raise BadInput(f"indices: must be whole numbers, such as [0, 5, 7], got {shown(indices)}")
    if array.size and not -count <= array.min() <= array.max() < count:
        raise BadInput(
            f"indices: from {array.min()} to {array.max()}; the split has {count} images, numbered "
            f"from 0 to {count - 1}"
        )
    return torch.from_numpy(array)


def _check_images(images: object) -> None:
    _check_form(images)
    assert isinstance(images, torch.Tensor)
    if images.dtype != torch.uint8:
        fix = "convert them to uint8 from 0 to 255, before any normalisation"
        if images.is_floating_point():
            fix += ": (images * 255).round().to(torch.uint8) for pixels in [0, 1]"
        raise BadInput(f"images: {_dtype(images)}; {fix}")


def _check_form(images: object, dtype: str = "uint8") -> None:
    if not isinstance(images, torch.Tensor):
        fix = "; torch.from_numpy(images) makes it one" if isinstance(images, np.ndarray) else ""
        raise BadInput(
            f"images: must be a tensor, {dtype} [N, 3, S, S], got {type_name(images)}{fix}"
        )
    shape = list(images.shape)
    if images.ndim != 4 or images.shape[1] != 3:
        fix = ""
        if images.ndim == 4 and images.shape[3] == 3:
            fix = "; move the channels with images.permute(0, 3, 1, 2)"
        elif images.ndim == 3 and images.shape[0] == 3:
            fix = "; make one image a batch with images[None]"
        elif images.ndim == 4 and images.shape[1] == 1:
            fix = "; repeat gray with images.expand(-1, 3, -1, -1)"
        raise BadInput(f"images: must be {dtype} [N, 3, S, S], got {shape}{fix}")


def _check_labels(labels: object, images: torch.Tensor) -> None:
    if not isinstance(labels, torch.Tensor):
        raise BadInput(
            f"labels: must be a tensor, int64 [N], got {type_name(labels)}; "
            "torch.as_tensor(labels) makes it one"
        )
    if labels.ndim != 1 or len(labels) != len(images):
        raise BadInput(
            f"labels: must be int64 [{len(images)}], one per image, got {list(labels.shape)}"
        )
    if labels.dtype != torch.int64:
        fix = "give the numbers of the classes"
        if not labels.is_floating_point() and labels.dtype != torch.bool:
            fix += ": labels.long()"
        raise BadInput(f"labels: {_dtype(labels)} instead of int64; {fix}")
    if labels.device != images.device:
        raise BadInput(
            f"labels: on {labels.device}, the images on {images.device}; move one with .to()"
        )


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def stratified(labels: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Draw ``n`` indices into ``labels`` with each class in proportion; return them sorted.

    Quotas are rounded by largest remainders. If ``n`` is at least the number of labels, all indices
    are returned. Scikit-learn's stratified split is not used because it refuses classes with one
    member, and an ``n`` below the number of classes.
    """
    if n >= len(labels):
        return np.arange(len(labels))
    rng = np.random.default_rng(seed)
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * n / len(labels)
    quota = np.floor(exact).astype(int)
    quota[np.argsort(-(exact - quota), kind="stable")[: n - quota.sum()]] += 1
    picked = [
        rng.permutation(np.flatnonzero(labels == c))[:q]
        for c, q in zip(classes, quota, strict=True)
    ]
    return np.sort(np.concatenate(picked))
