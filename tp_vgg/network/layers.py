"""A layer as data: what it costs at its widths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class LayerRow:
    """One conv or linear layer, with the batch norm behind it counted in.

    ``params`` counts weights, bias and batch norm's affine pair; ``macs`` are multiply-accumulates for one
    image; ``side`` is the side of the layer's output map in pixels (1 for linears).
    """

    name: str
    kind: Literal["conv", "linear"]
    in_width: int
    out_width: int
    side: int
    params: int
    macs: int
    weights: int
    """Elements of the layer's weight tensor."""
    source: str | None = None
    """The layer whose channels it reads; ``None``: it reads the images."""
    reads: int = 1
    """Elements that it reads for each channel of its source; over 1 behind a flattened map."""
    coupled: str | None = None
    """The layer that sets its width, where that is another one (as behind a sum of maps)."""

    @property
    def group(self) -> str:
        """Layers of one group have one width: the name of the layer that sets it."""
        return self.coupled or self.name

    def costs(self, in_width: Any, out_width: Any) -> tuple[Any, Any, Any]:
        """(params, macs, weights) of the same layer between other widths: integers, or integer arrays that broadcast. ``in_width`` counts
        what the layer reads, as the field does."""
        weights = self.weights // (self.in_width * self.out_width) * in_width * out_width
        params = weights + (self.params - self.weights) // self.out_width * out_width
        return params, weights * self.side**2, weights
