"""The memory traffic of a forward pass is estimated from the operators that each mode runs.

This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tp_vgg.network.layers import LayerRow
from tp_vgg.network.spec import Spec
from tp_vgg.network.vgg.spec import VGGSpec

INDEX_BYTES = 8
"""Size of an index. Max-pool always writes the index of each largest element, even if nobody reads
it."""


@dataclass(frozen=True)
class Operator:
    """One operator of a forward pass reads a map and weights, and writes a map.

    The fields count elements; those of maps are for one image.
    """

    reads: int
    writes: int
    weights: int = 0
    indices: int = 0
    """Indices that are also written, with :data:`INDEX_BYTES` each, and never read."""


@dataclass(frozen=True)
class Memory:
    """A memory has the bandwidth and the cache size that the memory-bound rule needs."""

    bandwidth: float
    """Bytes per second of a large copy, read and write counted."""
    cache_bytes: int = 0
    """Size of the last-level cache; 0 for none."""


def operators(spec: Spec, mode: str, *, cuda: bool = False) -> tuple[Operator, ...]:
    """Return the operators that ``mode`` runs, in order.

    * ``eager`` and ``graph``: conv, batch norm (if there is one) and ReLU, each of which reads and
      writes a map, and max-pool; then the average pool, and the linear layers with their ReLUs.
    * ``folded`` and ``folded-graph``: the same without batch norm.
    * The other modes have compilers that fuse operators. For them it is a lower bound: each layer
      reads its input and writes its output once.

    On a CPU the conv adds its bias itself. With ``cuda`` the bias is one more operator, in place on
    the map, as torch adds it after cuDNN's convolution (aten/src/ATen/native/Convolution.cpp).
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
    """Estimate the bytes that a forward pass of ``mode`` moves between last-level cache and memory.

    ``item_bytes`` is the size of an element of a map or of a weight. The rules are:

    * A map of all ``batch_size`` images that is no larger than the cache stays in it between the
      operator that writes it and the one that reads it. A larger map is written to memory and read
      from there, in full.
    * The weights stay in the cache from one forward pass to the next if they fit into it together
      with the inputs and outputs of the operator that has the most of these. Otherwise each weight
      is read once per forward pass.
    * The images are always read, because the input pool is larger than the cache; the logits are
      always written.
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


def _one_by_one(spec: Spec, elementwise: int) -> Iterator[Operator]:
    """Yield the operators of a network that runs them one by one.

    ``elementwise`` is the number of operators after each conv that read its map and write one of
    the same size: bias, batch norm, ReLU.
    """
    assert isinstance(spec, VGGSpec), (
        "only a VGG's spec tells after which convs the maps are pooled"
    )
    convs = iter(row for row in spec.rows if row.kind == "conv")
    before, side = 0, spec.image_size
    for count in spec.stages:
        for _ in range(count):
            row = next(convs)
            before = row.out_width * row.side**2
            yield _layer(row)
            yield from [Operator(before, before)] * elementwise
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
