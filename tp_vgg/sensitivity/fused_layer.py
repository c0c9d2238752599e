"""One layer of the folded network as data, and the memory that outputs go to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class FusedLayer:
    """One conv or linear layer (batch norm folded in) with what follows it: 2×2 max-pool, then bias, then ReLU.

    The maximum commutes exactly with adding one bias and with ReLU, and leaves them a quarter of the pixels.
    """

    name: str
    weight: torch.Tensor
    """[out, in, 3, 3] for a conv, [out, in · pool²] for a linear."""
    bias: torch.Tensor
    side: int
    """Of the input map in pixels; 1 behind the head's pool."""
    pooled: bool
    relu: bool
    head_pool: int = 0
    """Side that the adaptive average pool gives the first linear; 0 for every other layer."""

    def to(self, dtype: torch.dtype) -> FusedLayer:
        return replace(self, weight=self.weight.to(dtype), bias=self.bias.to(dtype))

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of one image."""
        if self.weight.ndim == 2:
            return (self.weight.shape[0],)
        side = self.side // 2 if self.pooled else self.side
        return (side, side, self.weight.shape[0])


class Buffers:
    """Outputs in memory that is used again: fresh pages would cost a tenth of a sweep's time on a CPU.

    What :meth:`take` gave for a purpose is lost when it is asked for that purpose again.
    """

    def __init__(self) -> None:
        self._held: dict[object, torch.Tensor] = {}

    def clear(self) -> None:
        """Give all memory back."""
        self._held.clear()

    def take(self, purpose: object, like: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        """An uninitialised tensor [len(like), … shape] of the dtype and device of ``like``."""
        key = (purpose, shape, like.dtype)
        held = self._held.get(key)
        if held is None or len(held) < len(like):
            held = self._held[key] = like.new_empty(len(like), *shape)
        return held[: len(like)]


def pool_bias_relu(step: FusedLayer, quarters: Sequence[torch.Tensor], out: torch.Tensor) -> None:
    """Pixels (2i, 2j), (2i, 2j+1), (2i+1, 2j) and (2i+1, 2j+1) of the map, each [n, half, half, channels], into ``out``."""
    first, *others = quarters
    if step.pooled:
        for quarter in others:
            first = torch.maximum(first, quarter)
        torch.add(first, step.bias, out=out)
    else:
        n, half, _, width = first.shape
        pixels = out.view(n, half, 2, half, 2, width)
        for place, quarter in enumerate(quarters):
            torch.add(quarter, step.bias, out=pixels[:, :, place // 2, :, place % 2])
    out.relu_()
