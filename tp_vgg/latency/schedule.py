"""This module has the settings of a benchmark, and helpers shared by its timing and its probes."""

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
"""Modes that launch the network's operators one by one, without a graph or a compiler."""


@dataclass(frozen=True)
class BenchmarkSettings:
    """Benchmark settings say which cases are measured, and how.

    Raises :class:`BadInput` if there is no case or ``trials`` is below
    :data:`~tp_vgg.latency.table.FEWEST_TRIALS`.
    """

    cases: tuple[BenchmarkCase, ...]
    trials: int | None = None
    """Blocks per case; ``None``: default of :func:`~tp_vgg.latency.interleave.interleave`."""
    reuse_input: bool = False
    """Time every forward pass on one batch of images, which stays in the cache, instead of on an
    input pool that is larger than the cache."""
    probes: bool = True
    """Look for slightly smaller widths that are faster (:mod:`tp_vgg.latency.probes`)."""

    def input_pool(
        self, model: Network, case: BenchmarkCase, timing_device: TimingDevice
    ) -> InputPool:
        """Create the input pool of ``case`` on the timing device.

        It has at least twice the size of the last-level cache, or one batch if ``reuse_input``.
        """
        pool_bytes = 0 if self.reuse_input else 2 * timing_device.clock.cache_bytes()
        return input_pool(model.spec.image_size, case, timing_device.device, pool_bytes)

    def __post_init__(self) -> None:
        if not self.cases or (self.trials is not None and self.trials < FEWEST_TRIALS):
            raise BadInput(f"give one or more cases, and {FEWEST_TRIALS} trials or more")


def arithmetic(case: BenchmarkCase) -> Any:
    """Set the precision of fp32 products for the block: TF32 if that is the dtype of ``case``."""
    return fp32_arithmetic(tf32=case.dtype == "tf32", deterministic=False, compiles=True)


def why_not(error: Exception) -> str:
    """Return the reason that a row gives for a case that could not be measured.

    These are :class:`Unavailable`, :class:`Throttled` and out of memory; every other error is a
    fault of the program, and is raised again.
    """
    if isinstance(error, Unavailable | Throttled):
        return str(error)
    if out_of_memory(error):
        return "out of memory"
    raise error
