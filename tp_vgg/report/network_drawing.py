"""This module draws a network as blocks, one per layer.

The width of a block shows the channels of its layer, and its height the side of the map.

This module does not import torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tp_vgg.network.spec import Spec

HEIGHT = 120.0
"""Height of the block with the largest map, in the drawing's units."""
WIDTH = 48.0
"""Width of the widest conv's block, and of the widest linear layer's.

Each kind has its own scale: on one scale the linear layers would dwarf the convs."""
GAP = 26.0
"""Space between two blocks, for their captions."""


@dataclass(frozen=True)
class Block:
    """A block shows one layer before and after pruning; lengths are in the drawing's units."""

    name: str
    before: int
    """Channels of the dense layer."""
    after: int
    """Channels of the pruned layer."""
    side: int
    """Side of the layer's map in pixels; 1 for linear layers."""
    x: float
    """Position of the left edge."""
    height: float
    width_before: float
    width_after: float


def blocks(dense: Spec, pruned: Spec) -> tuple[Block, ...]:
    """Return a block for each prunable layer, in the network's order, from x = 0.

    Widths are proportional to the channels, on one scale for convs and one for linear layers.
    Heights are proportional to the square root of the map's side, so that small maps can be seen.
    """
    largest = max(row.side for row in dense.rows)
    prunable = [row for row in dense.rows if row.name in dense.prunable]
    widest = {
        kind: max(row.out_width for row in prunable if row.kind == kind)
        for kind in {row.kind for row in prunable}
    }
    drawing, x = [], 0.0
    for row in prunable:
        after = pruned.prunable[row.name]
        block = Block(
            row.name,
            row.out_width,
            after,
            row.side,
            x,
            HEIGHT * math.sqrt(row.side / largest),
            WIDTH * row.out_width / widest[row.kind],
            WIDTH * after / widest[row.kind],
        )
        drawing.append(block)
        x += max(block.width_before, 12.0) + GAP
    return tuple(drawing)
