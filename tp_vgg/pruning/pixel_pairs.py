"""These functions say which pixels of its input map a conv reads, alone and in pairs.

A tap is a place of the kernel. Taps are numbered row by row.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import prod

import torch
from torch import nn


@dataclass(frozen=True)
class PixelPairs:
    """These are pairs of pixels that the same pairs of taps read together."""

    first: torch.Tensor
    second: torch.Tensor
    """The second pixel of each pair, int64 [pairs]; it is the first one, or comes after it."""
    taps: tuple[tuple[int, int], ...]
    """The pairs of taps. Each pair reads each pair of pixels at one position of the output map."""


def padding_of(conv: nn.Conv2d) -> tuple[int, int]:
    """Return the rows and columns of zeros above and left of the input map of ``conv``."""
    if conv.padding == "same":
        down, right = (
            step * (size - 1) // 2
            for step, size in zip(conv.dilation, conv.kernel_size, strict=True)
        )
        return down, right
    return int(conv.padding[0]), int(conv.padding[1])


def pixels_read(conv: nn.Conv2d, side: torch.Size, out: torch.Size) -> torch.Tensor:
    """Return which input pixel each output position reads at each tap, int64 [positions, taps].

    ``side`` and ``out``: height and width of the input and output maps. Pixels are numbered row by
    row; the padding is the number behind the last one.
    """
    lines = []
    for i in (0, 1):
        start = torch.arange(out[i])[:, None] * conv.stride[i] - padding_of(conv)[i]
        lines.append(start + torch.arange(conv.kernel_size[i]) * conv.dilation[i])
    down, right = lines[0][:, None, :, None], lines[1][None, :, None, :]
    inside = (down >= 0) & (down < side[0]) & (right >= 0) & (right < side[1])
    return torch.where(inside, down * side[1] + right, prod(side)).flatten(2).flatten(0, 1)


def pixel_pairs(read: torch.Tensor, pixels: int) -> list[PixelPairs]:
    """Return all pairs of the ``pixels`` that are read at one position, without the padding.

    ``read`` is what :func:`pixels_read` returns. A pair of pixels is read at several positions. The
    sum of its products serves all of them: for 3x3 taps on a map of 8x8 that is a fifth of the
    products of all patches, and less on smaller maps.
    """
    taps_of: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for position in read.tolist():
        inside = [(tap, pixel) for tap, pixel in enumerate(position) if pixel < pixels]
        for (tap, first), (other, second) in combinations_with_replacement(inside, 2):
            taps_of.setdefault((first, second), []).append((tap, other))
    pairs_of: dict[tuple[tuple[int, int], ...], list[tuple[int, int]]] = {}
    for pair, taps in taps_of.items():
        pairs_of.setdefault(tuple(taps), []).append(pair)
    found = []
    for tap_pairs, pairs in pairs_of.items():
        first, second = torch.tensor(pairs, device=read.device).T.contiguous()
        found.append(PixelPairs(first, second, tap_pairs))
    return found
