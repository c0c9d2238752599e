"""Training images are augmented a batch at a time: random crop, reflected border, flip."""

from __future__ import annotations

import torch

from tp_vgg.data.split import Split

PAD = 4
"""Largest shift of a training image in pixels, in each direction."""


def augment(split: Split, draws: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the drawn images, cropped and flipped, and their labels.

    ``draws``, int64 [4, B] on the split's device, has one column per output image and four rows:

    * the index of the image in ``split``;
    * the shift of the crop window down, in pixels: from −:data:`PAD` to :data:`PAD`, with a
      magnitude below S; pixels outside of the image are its reflection;
    * the same to the right;
    * 1 if the crop is mirrored left to right, else 0.

    The images are uint8 [B, 3, S, S] in channels_last memory, the labels int64 [B]. All images are
    read by one gather on the device.
    """
    indices, down, right, flipped = draws
    side = split.images.shape[-1]
    line = torch.arange(side, device=draws.device)
    rows, columns = (_reflected(shift[:, None] + line, side) for shift in (down, right))
    columns = torch.where(flipped[:, None] > 0, columns.flip(1), columns)
    images = split.images.permute(0, 2, 3, 1)[
        indices[:, None, None], rows[:, :, None], columns[:, None, :]
    ]
    return images.permute(0, 3, 1, 2), split.labels[indices]


def _reflected(line: torch.Tensor, side: int) -> torch.Tensor:
    """Reflect coordinates from −(side − 1) to 2 · (side − 1) into [0, side − 1]."""
    return (side - 1) - ((side - 1) - line.abs()).abs()
