"""A layer row describes one layer as data: its widths and its cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class LayerRow:
    """A layer row describes one conv or linear layer together with the batch norm behind it."""

    name: str
    """Name of the module."""
    kind: Literal["conv", "linear"]
    in_width: int
    """Size of the weight's input dimension: input channels, or input columns of a linear."""
    out_width: int
    """Output channels or features."""
    side: int
    """Side of the layer's output map in pixels (1 for linears)."""
    params: int
    """Trainable parameters: weights, bias, and the two vectors of batch norm."""
    macs: int
    """Multiply-accumulates for one image."""
    weights: int
    """Elements of the weight tensor."""
    source: str | None = None
    """The layer whose channels it reads; ``None`` if it reads the images."""
    reads: int = 1
    """Elements that it reads for each channel of ``source``; above 1 behind a flattened map."""
    coupled: str | None = None
    """The layer that sets its width, if that is another one (as behind a sum of maps)."""

    @property
    def group(self) -> str:
        """Return the name of the layer that sets this layer's width; it names the group.

        All layers of a group have the same width.
        """
        return self.coupled or self.name

    def costs(self, in_width: Any, out_width: Any) -> tuple[Any, Any, Any]:
        """Return (params, macs, weights) of the same layer at other widths.

        The widths are integers, or integer arrays that broadcast. ``in_width`` means the same as
        the field: ``reads`` times the width of ``source``.
        """
        weights = self.weights // (self.in_width * self.out_width) * in_width * out_width
        params = weights + (self.params - self.weights) // self.out_width * out_width
        return params, weights * self.side**2, weights
