"""Labelled images with their normalisation, and the stratified draw that splits them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
SPLIT_SEED = 0


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
    picked = [
        rng.permutation(np.flatnonzero(labels == c))[:q]
        for c, q in zip(classes, quota, strict=True)
    ]
    return np.sort(np.concatenate(picked))
