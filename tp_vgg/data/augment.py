"""Crops, reflections and flips of whole batches."""

from __future__ import annotations

import torch

from tp_vgg.data.split import Split

PAD = 4
"""Pixels by which an image is shifted in training at most."""


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
    images = split.images.permute(0, 2, 3, 1)[
        where[:, None, None], rows[:, :, None], columns[:, None, :]
    ]
    return images.permute(0, 3, 1, 2), split.labels[where]


def _reflected(line: torch.Tensor, side: int) -> torch.Tensor:
    return (side - 1) - ((side - 1) - line.abs()).abs()
