"""What a forward pass moves to and from memory, reckoned from the operators that each mode runs (no torch)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tp_vgg.network.layers import LayerRow
from tp_vgg.network.spec import Spec
from tp_vgg.network.vgg.spec import VGGSpec

INDEX_BYTES = 8
"""Of an index: max-pool writes which element was the largest, even where nobody asks."""


@dataclass(frozen=True)
class Operator:
    """One operator of a pass. Its numbers are elements, of the tensors for one image."""

    reads: int
    writes: int
    weights: int = 0
    indices: int = 0
    """Written too, in :data:`INDEX_BYTES` each, and read by none."""


@dataclass(frozen=True)
class Memory:
    """A device's memory as the rules see it."""

    bandwidth: float
    """Bytes per second of a large copy, read and write counted."""
    cache_bytes: int = 0
    """Size of the last-level cache."""


def operators(spec: Spec, mode: str, *, cuda: bool = False) -> tuple[Operator, ...]:
    """What ``mode`` runs, in order.

    ``eager`` and ``graph``: conv, batch norm where there is one, and ReLU, each of which reads a map and writes one, and pool; behind them
    the average pool, linears and their ReLUs. ``folded`` and ``folded-graph``: the same without batch norm. Of other modes, whose compilers
    put operators together, the least: each layer reads its input and writes its output once. On a CPU a conv's bias is part of it; with
    ``cuda`` it is added to the map afterwards, in place, as torch does behind cuDNN (aten/src/ATen/native/Convolution.cpp).
    """
    if mode in ("eager", "graph"):
        return tuple(_one_by_one(spec, 1 + spec.batch_norm + cuda))
    if mode in ("folded", "folded-graph"):
        return tuple(_one_by_one(spec, 1 + cuda))
    return tuple(_layer(row) for row in spec.rows)


def bytes_moved(
    spec: Spec,
    mode: str,
    batch_size: int,
    item_bytes: int,
    cache_bytes: int = 0,
    *,
    cuda: bool = False,
) -> int:
    """Bytes that one pass of ``mode`` has to move between the last-level cache and memory.

    What the cache holds is left out. It holds a map between the operator that writes it and the one that reads it where the whole map (of
    ``batch_size`` images) is no larger than the cache; a larger one is written to memory and read from there, in full. It keeps the
    weights from pass to pass where they fit into it together with the inputs and outputs of the operator that has the most of these;
    otherwise each weight is read once a pass. The images are read, since inputs rotate over more than the cache, and the logits written.
    """
    run = operators(spec, mode, cuda=cuda)
    item = batch_size * item_bytes
    weights = sum(one.weights for one in run) * item_bytes
    busiest = max(one.reads + one.writes for one in run) * item
    maps = sum(_missed(one.reads * item, cache_bytes) for one in run[1:])
    maps += sum(_missed(one.writes * item, cache_bytes) for one in run[:-1])
    maps += sum(_missed(one.indices * batch_size * INDEX_BYTES, cache_bytes) for one in run)
    ends = (run[0].reads + run[-1].writes) * item
    return ends + maps + (weights if weights + busiest > cache_bytes else 0)


def _missed(size: int, cache_bytes: int) -> int:
    return size if size > cache_bytes else 0


def _layer(row: LayerRow) -> Operator:
    return Operator(row.in_width * row.side**2, row.out_width * row.side**2, row.weights)


def _one_by_one(spec: Spec, passes: int) -> Iterator[Operator]:
    """``passes``: operators between a conv and what follows, each of which reads its map and writes it: bias, batch norm, ReLU in place."""
    assert isinstance(spec, VGGSpec), "where the maps are pooled, only a VGG's spec says"
    convs = iter(row for row in spec.rows if row.kind == "conv")
    before, side = 0, spec.image_size
    for count in spec.stages:
        for _ in range(count):
            row = next(convs)
            before = row.out_width * row.side**2
            yield _layer(row)
            yield from [Operator(before, before)] * passes
        side //= 2
        pooled = before // (row.side**2) * side**2
        yield Operator(before, pooled, indices=pooled)
        before = pooled
    linears = [row for row in spec.rows if row.kind == "linear"]
    yield Operator(before, linears[0].in_width)  # the average pool
    for row in linears:
        yield _layer(row)
        if row is not linears[-1]:
            yield Operator(row.out_width, row.out_width)  # ReLU
