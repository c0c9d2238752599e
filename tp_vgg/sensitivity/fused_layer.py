"""A fused layer holds one layer of the folded network as data; buffers hold the layers' outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class FusedLayer:
    """A fused layer is a conv or linear layer with batch norm folded in, its max-pool and its ReLU.

    The order is: product, 2×2 max-pool (if any), bias, ReLU (if any). The maximum commutes exactly
    with adding one bias and with ReLU, and leaves them a quarter of the pixels.
    """

    name: str
    weight: torch.Tensor
    """``[out, in, 3, 3]`` for a conv, ``[out, in]`` for a linear layer; ``[out, in · head_pool²]``
    for the first one."""
    bias: torch.Tensor
    """``[out]``."""
    side: int
    """Side of the input map in pixels; 1 behind the head's pool."""
    pooled: bool
    """Whether a 2×2 max-pool follows."""
    relu: bool
    """Whether a ReLU follows; it always does for a conv, and the kernels rely on that."""
    head_pool: int = 0
    """Side of the map that the adaptive average pool gives the first linear; 0 for other layers."""

    def to(self, dtype: torch.dtype) -> FusedLayer:
        """Return the same layer with weight and bias in ``dtype``."""
        return replace(self, weight=self.weight.to(dtype), bias=self.bias.to(dtype))

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Return the output's shape for one image: ``(side, side, out)``, or ``(out,)``."""
        if self.weight.ndim == 2:
            return (self.weight.shape[0],)
        side = self.side // 2 if self.pooled else self.side
        return (side, side, self.weight.shape[0])


class Buffers:
    """Buffers are memory for outputs that is used again.

    Fresh memory pages would cost a tenth of a sweep's time on a CPU. A tensor from :meth:`take`
    must not be read after the next call for the same purpose, which may overwrite it.
    """

    def __init__(self) -> None:
        self._tensors: dict[object, torch.Tensor] = {}

    def clear(self) -> None:
        """Free all memory."""
        self._tensors.clear()

    def take(self, purpose: object, like: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        """Return an empty tensor ``[len(like), *shape]`` of the dtype and device of ``like``.

        Its values are undefined.
        """
        key = (purpose, shape, like.dtype)
        tensor = self._tensors.get(key)
        if tensor is None or len(tensor) < len(like):
            tensor = self._tensors[key] = like.new_empty(len(like), *shape)
        return tensor[: len(like)]


def pool_bias_relu(layer: FusedLayer, quarters: Sequence[torch.Tensor], out: torch.Tensor) -> None:
    """Write ``relu(pool(map) + bias)`` into ``out``; the map comes as four quarters of its pixels.

    ``quarters``: the pixels (2i, 2j), (2i, 2j+1), (2i+1, 2j) and (2i+1, 2j+1), each
    ``[n, half, half, channels]``. ``out``: ``[n, half, half, channels]`` if the layer is pooled,
    else ``[n, 2 · half, 2 · half, channels]``.
    """
    first, *others = quarters
    if layer.pooled:
        for quarter in others:
            first = torch.maximum(first, quarter)
        torch.add(first, layer.bias, out=out)
    else:
        n, half, _, width = first.shape
        pixels = out.view(n, half, 2, half, 2, width)
        for place, quarter in enumerate(quarters):
            torch.add(quarter, layer.bias, out=pixels[:, :, place // 2, :, place % 2])
    out.relu_()
