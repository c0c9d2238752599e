"""A clock measures the seconds of one call on a device; this module has the clock of a CPU."""

from __future__ import annotations

import gc
import statistics
import time
from typing import Any, Protocol

import torch

from tp_vgg.latency.tensor_memory import peak_live_bytes
from tp_vgg.machine.cuda_graph import Call
from tp_vgg.machine.sensors import cpu_cache_bytes, cpu_state

SAMPLE_SECONDS = 0.05
"""Shortest sample on a CPU: a million times the resolution of its clock, and long enough for the
operating system's scheduler to even out."""


class Clock(Protocol):
    """A clock times calls on one device and tells the state of that device."""

    def sample(self, call: Call) -> float:
        """Measure the seconds of one ``call``, from as many calls as fill a sample.

        The first call is not counted, with one exception: on a CPU, a first call of at least twice
        a sample's length is itself the sample. What the call before it left in the caches hardly
        matters then.
        """

    def sample_seconds(self, call_seconds: float) -> float:
        """Estimate the seconds that :meth:`sample` takes for a call of ``call_seconds``."""

    def speed(self) -> float | None:
        """Return the present clock rate of the device divided by its default rate.

        ``None`` if either is unknown, as on a CPU.
        """

    def busy(self, call: Call) -> float | None:
        """Measure the fraction of a call's wall time in which the device computes, in [0, 1].

        ``None`` if that can't be measured, as on a CPU.
        """

    def peak_bytes(self, call: Call, resident_bytes: int) -> int:
        """Return the peak memory of one ``call`` in bytes.

        ``resident_bytes`` is the size of the weights and the input, which exist before the call.
        """

    def cache_bytes(self) -> int:
        """Return the size of the last-level cache in bytes."""

    def conditions(self) -> dict[str, Any]:
        """Read the clock rates and the power state, which times depend on."""


class CpuClock:
    """A CPU clock measures wall time; the calls run on ``threads`` threads of torch.

    ``seconds`` is the shortest sample.
    """

    def __init__(self, threads: int, seconds: float = SAMPLE_SECONDS) -> None:
        self._threads, self._seconds = threads, seconds

    def sample(self, call: Call) -> float:
        """Measure the seconds of one ``call``: the median of the calls that fill a sample."""
        # Not torch.utils.benchmark.Timer: it runs a long call six times and counts one of them.
        threads_before, gc_enabled = torch.get_num_threads(), gc.isenabled()
        torch.set_num_threads(self._threads)
        gc.disable()
        try:
            first = _seconds(call)
            if first >= 2 * self._seconds:
                return first
            times: list[float] = []
            begun = time.perf_counter()
            while not times or time.perf_counter() - begun < self._seconds:
                times.append(_seconds(call))
            return statistics.median(times)
        finally:
            torch.set_num_threads(threads_before)
            if gc_enabled:
                gc.enable()

    def sample_seconds(self, call_seconds: float) -> float:
        """Estimate the seconds that :meth:`sample` takes for a call of ``call_seconds``."""
        return (
            call_seconds
            if call_seconds >= 2 * self._seconds
            else call_seconds + max(self._seconds, call_seconds)
        )

    def speed(self) -> float | None:
        """Return ``None``: the default clock rate of a CPU is not known."""
        return None

    def busy(self, call: Call) -> float | None:
        """Return ``None``: on a CPU, launching and computing can't be told apart."""
        return None

    def peak_bytes(self, call: Call, resident_bytes: int) -> int:
        """Return ``resident_bytes`` plus the peak of the tensors that ``call`` creates."""
        return resident_bytes + peak_live_bytes(call)

    def cache_bytes(self) -> int:
        """Return the size of the CPU's last-level cache in bytes."""
        return cpu_cache_bytes()

    def conditions(self) -> dict[str, Any]:
        """Read the number of threads, the cores' clock rates, the governor and the load."""
        return {"threads": self._threads, **cpu_state()}


def _seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
