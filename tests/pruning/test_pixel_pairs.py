"""Every pair of taps at every position is found once, as a pair of pixels of its input map."""

from __future__ import annotations

from collections import Counter
from itertools import combinations_with_replacement

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import CONVS
from torch import nn

from tp_vgg.pruning.pixel_pairs import pixel_pairs, pixels_read


def read_by(kind: str, side: tuple[int, int]) -> torch.Tensor:
    conv = nn.Conv2d(1, 1, **CONVS[kind])
    return pixels_read(conv, torch.Size(side), conv(torch.zeros(1, 1, *side)).shape[2:])


@pytest.mark.parametrize("side", [(4, 4), (6, 5)])
@pytest.mark.parametrize("kind", CONVS)
def test_the_pixels_are_those_that_unfold_gives(kind: str, side: tuple[int, int]) -> None:
    numbers = torch.arange(1.0, 1 + side[0] * side[1]).view(1, 1, *side)
    conv = nn.Conv2d(1, 1, **CONVS[kind])
    patches = F.unfold(numbers, conv.kernel_size, conv.dilation, conv.padding, conv.stride)[0].T
    read = read_by(kind, side)
    assert torch.equal(torch.where(read == side[0] * side[1], 0, read + 1), patches.long())


@pytest.mark.parametrize("side", [(4, 4), (6, 5)])
@pytest.mark.parametrize("kind", CONVS)
def test_each_pair_of_taps_is_found_once_for_each_position(
    kind: str, side: tuple[int, int]
) -> None:
    read, pixels = read_by(kind, side), side[0] * side[1]
    wanted = Counter(
        (taps, pair)
        for position in read.tolist()
        for taps, pair in zip(
            combinations_with_replacement(range(len(position)), 2),
            combinations_with_replacement(position, 2),
            strict=True,
        )
        if max(pair) < pixels
    )
    groups = pixel_pairs(read, pixels)
    found = Counter(
        (taps, pair)
        for group in groups
        for taps in group.taps
        for pair in zip(group.first.tolist(), group.second.tolist(), strict=True)
    )
    assert found == wanted and set(found.values()) == {1}
    assert len({group.taps for group in groups}) == len(groups)


def test_a_map_of_8x8_takes_a_fifth_of_the_products_of_its_patches() -> None:
    read = read_by("vgg", (8, 8))
    products = sum(len(group.first) for group in pixel_pairs(read, 64))
    taps = read.shape[1]
    assert 0.2 < products / (len(read) * taps * (taps + 1) / 2) < 0.22


def test_without_a_pixel_there_is_no_pair() -> None:
    assert pixel_pairs(torch.full((3, 9), 4), 4) == []
