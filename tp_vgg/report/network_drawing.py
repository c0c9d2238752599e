"""The network as blocks: how high is the side of a layer's map, how wide its channels (no torch)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tp_vgg.network.spec import Spec

HEIGHT = 120.0
"""Of the largest map, in the drawing's units."""
WIDTH = 48.0
"""Of the widest conv, and of the widest linear: they would dwarf the convs on one scale."""
GAP = 26.0
"""Between layers, for their captions."""


@dataclass(frozen=True)
class Block:
    """One layer; lengths in the drawing's units."""

    name: str
    before: int
    """Channels."""
    after: int
    side: int
    """Of the map, in pixels; 1 for linears."""
    x: float
    height: float
    width_before: float
    width_after: float


def blocks(dense: Spec, pruned: Spec) -> tuple[Block, ...]:
    """All prunable layers in order, from x = 0. Widths go with the channels, on a scale for convs and one for linears, and heights with the
    root of the map's side, so that small maps can still be seen."""
    largest = max(row.side for row in dense.rows)
    prunable = [row for row in dense.rows if row.name in dense.prunable]
    widest = {
        kind: max(row.out_width for row in prunable if row.kind == kind)
        for kind in {row.kind for row in prunable}
    }
    found, x = [], 0.0
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
        found.append(block)
        x += max(block.width_before, 12.0) + GAP
    return tuple(found)
