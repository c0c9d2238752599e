"""What a benchmark measures, and what all parts of it do with a case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tp_vgg.errors import BadInput, out_of_memory
from tp_vgg.latency.interleave import Throttled
from tp_vgg.latency.modes import InputPool, Unavailable, input_pool
from tp_vgg.latency.table import FEWEST_TRIALS, BenchmarkCase
from tp_vgg.latency.timing_device import TimingDevice
from tp_vgg.machine.precision import fp32_arithmetic
from tp_vgg.network.network import Network

SIMPLE = ("eager", "folded")
"""Modes that run a network's own operators one by one."""


@dataclass(frozen=True)
class BenchmarkSettings:
    """What to measure."""

    cases: tuple[BenchmarkCase, ...]
    trials: int | None = None
    """Blocks; ``None`` for what :func:`~tp_vgg.latency.interleave.interleave` does."""
    reuse_input: bool = False
    """Every pass on one input, which stays in the cache, instead of a pool larger than it."""
    probes: bool = True
    """Look for widths at which kernels step, by :mod:`tp_vgg.latency.probes`."""

    def input_pool(
        self, model: Network, case: BenchmarkCase, timing_device: TimingDevice
    ) -> InputPool:
        """The inputs of a case."""
        size = 0 if self.reuse_input else 2 * timing_device.clock.cache_bytes()
        return input_pool(model.spec.image_size, case, timing_device.device, size)

    def __post_init__(self) -> None:
        if not self.cases or (self.trials is not None and self.trials < FEWEST_TRIALS):
            raise BadInput(f"give one or more cases, and {FEWEST_TRIALS} trials or more")


def arithmetic(case: BenchmarkCase) -> Any:
    """A context in which fp32 is what the case's dtype says."""
    return fp32_arithmetic(tf32=case.dtype == "tf32", deterministic=False, compiles=True)


def why_not(error: Exception) -> str:
    """What a row says of a failure that is not a fault; raises the others."""
    if isinstance(error, Unavailable | Throttled):
        return str(error)
    if out_of_memory(error):
        return "out of memory"
    raise error
