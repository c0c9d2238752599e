"""What a benchmark measures, and what all parts of it do with a cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tp_vgg.errors import BadInput, out_of_memory
from tp_vgg.latency.interleave import Throttled
from tp_vgg.latency.modes import Ring, Unavailable, ring_of
from tp_vgg.latency.table import FEWEST_TRIALS, Cell
from tp_vgg.latency.timing_device import Bench
from tp_vgg.machine.precision import fp32_arithmetic
from tp_vgg.network.network import Network

SIMPLE = ("eager", "folded")
"""Modes that run a network's own operators one by one."""


@dataclass(frozen=True)
class Schedule:
    """What to measure."""

    cells: tuple[Cell, ...]
    trials: int | None = None
    """Blocks; ``None`` for what :func:`~tp_vgg.latency.interleave.interleave` does."""
    hot: bool = False
    """Every pass on one input, which stays in the cache, instead of a ring larger than it."""
    probes: bool = True
    """Look for widths at which kernels step, by :mod:`tp_vgg.latency.probes`."""

    def ring(self, model: Network, cell: Cell, bench: Bench) -> Ring:
        """The inputs of a cell."""
        size = 0 if self.hot else 2 * bench.clock.cache_bytes()
        return ring_of(model.spec.image_size, cell, bench.device, size)

    def __post_init__(self) -> None:
        if not self.cells or (self.trials is not None and self.trials < FEWEST_TRIALS):
            raise BadInput(f"give one or more cells, and {FEWEST_TRIALS} trials or more")


def arithmetic(cell: Cell) -> Any:
    """A context in which fp32 is what the cell's dtype says."""
    return fp32_arithmetic(tf32=cell.dtype == "tf32", deterministic=False, compiles=True)


def why_not(error: Exception) -> str:
    """What a row says of a failure that is not a fault; raises the others."""
    if isinstance(error, Unavailable | Throttled):
        return str(error)
    if out_of_memory(error):
        return "out of memory"
    raise error
