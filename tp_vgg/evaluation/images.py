"""Callers give labelled images as a split, a pair of tensors or a loader; here they become one.

Images in uint8 are pixels, which the network's ``meta`` says how to normalise. Images in float are
normalised already, as the caller's own loop feeds them to the network.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import torch
from torch.utils.data import Dataset

from tp_vgg.data.datasets import DataSet
from tp_vgg.data.split import Normalisation, NormalisedSplit, Split
from tp_vgg.errors import BadInput, printable
from tp_vgg.files.checks import type_name
from tp_vgg.network.network import Network

log = logging.getLogger(__name__)

Labelled = Split | tuple[torch.Tensor, torch.Tensor] | Iterable[Any]
"""A split, a pair (images, labels), or what yields such pairs anew in every loop over it."""
Unlabelled = torch.Tensor | Labelled
"""Images [N, 3, S, S], or anything that holds labelled ones; the labels are not read."""
WAYS = "a tp_vgg.data.Split(images, labels), a pair (images, labels) or a DataLoader of such pairs"
_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32)
"""The dtypes of labels that are converted to int64."""


@dataclass(frozen=True)
class Images:
    """These are the labelled images of a caller for one network, in the caller's own batches.

    They are checked as they are read. A split or a pair is one batch.
    """

    name: str
    """The parameter's name, for messages."""
    source: Iterable[Any]
    """Batches, read anew in every loop over them."""
    network: Network
    is_loader: bool = False

    @classmethod
    def of(cls, name: str, images: object, network: Network) -> Images:
        """Return the ``images`` that a caller gave as the parameter ``name`` for ``network``.

        Raises :class:`BadInput` for other types. A split and a pair are checked at once, the
        batches of a loader when they are read.
        """
        if isinstance(images, Split):
            check_split(name, images, network)
            return cls(name, (images,), network)
        if is_pair(images):
            split = _split_of(name, images, network)
            check_split(name, split, network)
            _warn_of_pixels(name, split, network)
            return cls(name, (split,), network)
        _check_loader(name, images)
        assert isinstance(images, Iterable)
        return cls(name, images, network, is_loader=True)

    def batches(self) -> Iterator[Split]:
        """Yield the batches in the caller's order, on the network's device.

        Raises :class:`BadInput` for a batch that does not fit the network, and if there is none.
        """
        if not self.is_loader:
            yield from self.source
            return
        number = -1
        for number, batch in enumerate(self._read()):
            if not isinstance(batch, tuple | list) or len(batch) != 2:
                got = (
                    f"{len(batch)} values" if isinstance(batch, tuple | list) else type_name(batch)
                )
                raise BadInput(
                    f"{self.name}: must be {WAYS}, got {type_name(self.source)} whose batch "
                    f"{number} is {got}"
                )
            where = f"{self.name}: batch {number}"
            split = _split_of(where, batch, self.network)
            check_split(where, split, self.network)
            if not number:
                _warn_of_pixels(self.name, split, self.network)
            yield split
        if number < 0:
            raise BadInput(f"{self.name}: has no images")

    def whole(self) -> Split:
        """Return all images as one split, in memory; raise :class:`BadInput` as above."""
        batches = list(self.batches())
        if len(batches) == 1:
            return batches[0]
        if len({type(batch) for batch in batches}) > 1:
            raise BadInput(f"{self.name}: some batches are uint8, others float; give one kind")
        return type(batches[0])(
            torch.cat([batch.images for batch in batches]),
            torch.cat([batch.labels for batch in batches]),
        )

    def batch_count(self) -> int:
        """Return the number of batches, which a loader without a length is read for."""
        if isinstance(self.source, Sized):
            try:
                return len(self.source)
            except Exception:  # noqa: BLE001  a DataLoader of an IterableDataset has no length
                pass
        return sum(1 for _ in self._read())

    def _read(self) -> Iterator[Any]:
        """Yield the loader's batches; its errors are said in one line, with their cause."""
        number = 0
        try:
            for batch in self.source:
                yield batch
                number += 1
        except (BadInput, MemoryError):
            raise
        except Exception as error:  # the loader is the caller's code
            reason = printable(next(iter(str(error).splitlines()), ""))[:120]
            raise BadInput(
                f"{self.name}: batch {number} can't be read ({type(error).__name__}: {reason}); "
                "a batch is float images [N, 3, S, S] and int64 labels [N], such as of "
                "torchvision.transforms.ToTensor() and Normalize(mean, std)"
            ) from error


def unlabelled(name: str, images: object, network: Network, limit: int, seed: int) -> torch.Tensor:
    """Return up to ``limit`` of a caller's images as ``network`` takes them, on its device.

    They are normalised floats [N, 3, S, S]. Of a tensor, a split or a pair they are drawn by
    ``seed``; of a loader they are the first ones. Labels are not read, and a loader's batches may
    have none. Raises :class:`BadInput` as :class:`Images` does.
    """
    tensors: Any = images
    if isinstance(images, Split):
        tensors = images.images
    elif is_pair(images) and getattr(images[1], "ndim", 0) != 4:  # two batches are no pair
        tensors = images[0]
    if isinstance(tensors, torch.Tensor | np.ndarray):
        _check_values(name, tensors)
        drawn = np.random.default_rng(seed).permutation(len(tensors) if tensors.ndim else 0)[:limit]
        splits = [_without_labels(name, tensors[drawn] if tensors.ndim else tensors, network)]
    else:
        _check_loader(name, images)
        splits = []
        for number, batch in enumerate(Images(name, tensors, network, is_loader=True)._read()):
            first = batch[0] if isinstance(batch, tuple | list) and len(batch) else batch
            splits.append(_without_labels(f"{name}: batch {number}", first, network))
            if sum(map(len, splits)) >= limit:
                break
    if not splits:
        raise BadInput(f"{name}: has no images")
    _warn_of_pixels(name, splits[0], network)
    return torch.cat([_normalised(split, network) for split in splits])[:limit]


def _without_labels(name: str, images: object, network: Network) -> Split:
    """Return images that ``network`` takes as a split on its device, whose labels are all 0."""
    count = len(images) if isinstance(images, torch.Tensor | np.ndarray) and images.ndim else 0
    split = _split_of(name, (images, torch.zeros(count, dtype=torch.int64)), network)
    check_split(name, split, network)
    return split


def _normalised(split: Split, network: Network) -> torch.Tensor:
    images = split.images
    return images if images.is_floating_point() else Normalisation.of(network.meta)(images)


def is_pair(images: object) -> TypeGuard[Sequence[Any]]:
    """Return True if ``images`` is a pair whose first is a tensor or an array."""
    return (
        isinstance(images, tuple | list)
        and len(images) == 2
        and isinstance(images[0], torch.Tensor | np.ndarray)
    )


def check_split(name: str, split: Split, network: Network) -> None:
    """Raise :class:`BadInput` unless ``network`` can classify the images of ``split``.

    They must have the size that the network takes, be on its device, and have labels of its
    classes.
    """
    if not len(split):
        raise BadInput(f"{name}: has no images")
    device = next(network.parameters()).device
    if split.labels.device != device:
        raise BadInput(
            f"{name}: on {split.labels.device}, the model on {device}; move one of them with .to()"
        )
    height, width = split.images.shape[2:]
    side = network.spec.image_size
    if (height, width) != (side, side):
        raise BadInput(
            f"{name}: images of {height}x{width} pixels; the network takes {side}x{side}: resize "
            "them, or give a network whose spec has their image_size"
        )
    if isinstance(split, NormalisedSplit) and not split.images.isfinite().all():
        raise BadInput(f"{name}: images: NaN or infinity in them; was a std of 0 divided by?")
    low, high = int(split.labels.min()), int(split.labels.max())
    classes = network.spec.num_classes
    if low < 0 or high >= classes:
        raise BadInput(
            f"{name}: labels: from {low} to {high}; the network has {classes} classes, numbered "
            f"from 0 to {classes - 1}"
        )


def _check_loader(name: str, images: object) -> None:
    got = f"{name}: must be {WAYS}, got {type_name(images)}"
    if isinstance(images, DataSet):
        raise BadInput(f"{got}; give one of its splits: .train, .val or .test")
    if isinstance(images, Dataset):
        raise BadInput(
            f"{got}; wrap it in torch.utils.data.DataLoader(dataset, batch_size=128) with images "
            "normalised as the network takes them"
        )
    if isinstance(images, torch.Tensor | np.ndarray):
        raise BadInput(f"{got}; give its labels too: (images, labels)")
    if isinstance(images, Iterator):
        raise BadInput(f"{got}, which can be read only once; give a list of the batches")
    if isinstance(images, str | bytes | Mapping | torch.nn.Module) or not isinstance(
        images, Iterable
    ):
        raise BadInput(got)


def _check_values(name: str, images: object) -> None:
    """Raise :class:`BadInput` for a tensor of no values, or of some that can't be indexed."""
    if isinstance(images, torch.Tensor) and images.is_meta:
        raise BadInput(f"{name}: images: on the meta device, without values")
    if isinstance(images, torch.Tensor) and images.layout != torch.strided:
        raise BadInput(f"{name}: images: a sparse tensor; give images.to_dense()")


def _split_of(name: str, pair: Sequence[Any], network: Network) -> Split:
    """Return a caller's pair (images, labels) as a split on the device of ``network``."""
    images, labels = (
        torch.from_numpy(np.ascontiguousarray(value))
        if isinstance(value, np.ndarray) and value.dtype.kind in "uifb"
        else value
        for value in pair
    )
    _check_values(name, images)
    if isinstance(images, torch.Tensor) and images.ndim == 3 and not isinstance(labels, list):
        raise BadInput(
            f"{name}: one image of shape {list(images.shape)}, not a batch; "
            "wrap the images in torch.utils.data.DataLoader(dataset, batch_size=128)"
        )
    device = next(network.parameters()).device
    if isinstance(labels, torch.Tensor) and labels.dtype in _WHOLE:
        labels = labels.long()
    try:
        if isinstance(images, torch.Tensor) and images.is_floating_point():
            split: Split = NormalisedSplit(images.detach().float(), labels)
        else:
            split = Split(images, labels)
    except BadInput as error:
        raise BadInput(f"{name}: {error}") from None
    return type(split)(split.images.to(device), split.labels.to(device))


def _warn_of_pixels(name: str, split: Split, network: Network) -> None:
    """Warn of float images in [0, 1] for a network that takes normalised ones."""
    mean, std = network.meta.get("mean"), network.meta.get("std")
    if not isinstance(split, NormalisedSplit) or (list(mean or []), list(std or [])) == (
        [0.0] * 3,
        [1.0] * 3,
    ):
        return
    low, high = split.images.aminmax()
    if low >= 0 and high <= 1:
        log.warning(
            f"{name}: float images with values from {low:.2f} to {high:.2f}: not normalised? "
            "Float images go to the network as they are; give (images - mean) / std, or uint8"
        )
