"""These are the images to which a repair fits the layers, and those that it holds out."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tp_vgg.data.augment import PAD, augment
from tp_vgg.data.split import NormalisedSplit
from tp_vgg.errors import BadInput
from tp_vgg.evaluation.images import Unlabelled, unlabelled
from tp_vgg.network.network import Network
from tp_vgg.pruning.paired_walk import block_size

LEAST_IMAGES = 2
VIEWS, VIEWS_OF_ZEROS = 1, 3
"""Shifted copies of each image to which the layers are fitted as well, without and with zeroed
weights. Layers that keep their full width have more weights to determine."""
HELD_OUT = 10
"""One of so many images is held out: no layer is fitted to it."""


@dataclass(frozen=True)
class RepairSample:
    """A repair sample holds normalised images in blocks, on the device of the network."""

    blocks: tuple[torch.Tensor, ...]
    """Blocks [n, 3, S, S]: first the held-out images, then the others, then their shifted copies.
    """
    held_blocks: int
    """Number of blocks of held-out images."""
    plain_blocks: int
    """Number of blocks that are not shifted, with those of held-out images."""
    held_out: int
    """Number of held-out images."""

    @classmethod
    def of(cls, images: torch.Tensor, *, zeroed: bool, flip: bool, seed: int) -> RepairSample:
        """Return the sample of normalised ``images``, fp32 [N, 3, S, S].

        The first of :data:`HELD_OUT` parts is held out. ``zeroed``: weights are zero, so there are
        more shifted copies; ``seed`` draws the shifts, and if ``flip`` which are mirrored.
        """
        held_out = max(1, len(images) // HELD_OUT)
        images = images.contiguous(memory_format=torch.channels_last)
        block = block_size(images.shape[-1])
        held, fitted = images[:held_out].split(block), images[held_out:]
        plain = [*held, *fitted.split(block)]
        views = _views(fitted, VIEWS_OF_ZEROS if zeroed else VIEWS, flip, seed)
        return cls((*plain, *views.split(block)), len(held), len(plain), held_out)


def repair_sample(
    name: str, images: Unlabelled, model: Network, limit: int, seed: int
) -> torch.Tensor:
    """Return the normalised images on which a repair looks, fp32 [N, 3, S, S]; N ≤ ``limit``.

    ``name``: of the argument ``images``. Raises :class:`BadInput` for images that do not fit
    ``model``, or too few.
    """
    sample = unlabelled(name, images, model, limit, seed)
    if len(sample) < LEAST_IMAGES:
        raise BadInput(f"{name}: {len(sample)} is too few; give {LEAST_IMAGES} or more")
    return sample


def _views(images: torch.Tensor, copies: int, flip: bool, seed: int) -> torch.Tensor:
    """Return ``copies`` of each image, shifted by up to 4 pixels and mirrored or not."""
    generator = torch.Generator().manual_seed(seed)
    count, side = len(images), images.shape[-1]
    shift = min(PAD, side - 1)
    draws = [torch.arange(count).repeat(copies)] + [
        torch.randint(low, high, (count * copies,), generator=generator)
        for low, high in ((-shift, shift + 1), (-shift, shift + 1), (0, 1 + flip))
    ]
    labels = torch.zeros(count, dtype=torch.int64, device=images.device)
    return augment(NormalisedSplit(images, labels), torch.stack(draws).to(images.device))[0]
