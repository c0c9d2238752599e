"""A pruned network and its dense one are walked side by side, one segment at a time.

Their activations at the place between two segments are held in blocks of images. Where they would
take too much memory, they are computed again from an earlier place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

_MOST_IMAGES = 100
_BLOCK_PIXELS = 1 << 19
"""Most images, and most pixels of them, that go through a segment at a time. 64 channels of so many
pixels take 128 MB."""
HELD_BYTES = 1 << 29
"""Most bytes of one network's activations that are held."""


def block_size(side: int) -> int:
    """Return how many images of ``side`` x ``side`` pixels go through a segment at a time."""
    return max(1, min(_MOST_IMAGES, _BLOCK_PIXELS // side**2))


class Activations:
    """These are one network's activations at one place, block by block; modules move it on."""

    def __init__(self, blocks: Sequence[torch.Tensor]) -> None:
        self._held = list(blocks)
        self._pending: list[nn.Module] = []
        self._ahead: list[torch.Tensor] = []
        self._keeps = True

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yield each block's activations; they must not be changed in place."""
        for held in self._held:
            for module in self._pending:
                held = module(held)
            yield held

    def move(self, output: torch.Tensor, rest: nn.Module) -> None:
        """Take one block's ``output`` of the next layer, which is then sent through ``rest``.

        The blocks come in order. After the last one, :meth:`moved` ends the move. ``output`` may be
        changed in place.
        """
        if not self._keeps:
            return
        self._ahead.append(rest(output))
        if sum(x.nbytes for x in self._ahead) > HELD_BYTES:
            self._keeps, self._ahead = False, []

    def moved(self, layer: nn.Module, rest: nn.Module) -> None:
        """End the move through ``layer`` and ``rest``; the activations are those behind them now.

        If too large to be held, they are computed from the earlier ones in each later iteration.
        """
        if self._keeps:
            self._held, self._pending = self._ahead, []
        else:
            self._pending += [layer, rest]
        self._ahead, self._keeps = [], True
