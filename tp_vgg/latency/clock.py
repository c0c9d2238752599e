"""How long one call takes, and what else a clock can tell; the clock of a CPU."""

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
"""Shortest sample on a CPU: a million times the resolution of its clock, and long enough that its scheduler evens out."""


class Clock(Protocol):
    """A device as the benchmark sees it."""

    def sample(self, call: Call) -> float:
        """Seconds of one ``call``, from as many as fill a sample, after one that is not counted; on a CPU one of twice that long is
        the sample: so long, what the call before has left in the caches no longer shows."""

    def sample_seconds(self, call_seconds: float) -> float:
        """About how long :meth:`sample` takes of a call that takes ``call_seconds``."""

    def speed(self) -> float | None:
        """The device's clock rate now as a share of its default rate; ``None`` where either is not known, as on a CPU."""

    def busy(self, call: Call) -> float | None:
        """Share of the wall time of a ``call`` in which the device computes; ``None`` where that can't be told apart."""

    def peak_bytes(self, call: Call, held: int) -> int:
        """Peak memory of one ``call``, with ``held`` bytes of weights and input that exist before it."""

    def cache_bytes(self) -> int:
        """Size of the last-level cache."""

    def conditions(self) -> dict[str, Any]:
        """Clocks and power state: what a figure depends on and the environment does not say."""


class CpuClock:
    """Wall time, on ``threads`` threads."""

    def __init__(self, threads: int, seconds: float = SAMPLE_SECONDS) -> None:
        self._threads, self._seconds = threads, seconds

    def sample(self, call: Call) -> float:
        # torch.utils.benchmark's Timer makes six calls for the one that it counts where a call is long.
        before, collects = torch.get_num_threads(), gc.isenabled()
        torch.set_num_threads(self._threads)
        gc.disable()
        try:
            first = _seconds(call)
            if first >= 2 * self._seconds:
                return first
            passes: list[float] = []
            begun = time.perf_counter()
            while not passes or time.perf_counter() - begun < self._seconds:
                passes.append(_seconds(call))
            return statistics.median(passes)
        finally:
            torch.set_num_threads(before)
            if collects:
                gc.enable()

    def sample_seconds(self, call_seconds: float) -> float:
        return (
            call_seconds
            if call_seconds >= 2 * self._seconds
            else call_seconds + max(self._seconds, call_seconds)
        )

    def speed(self) -> float | None:
        return None

    def busy(self, call: Call) -> float | None:
        return None

    def peak_bytes(self, call: Call, held: int) -> int:
        return held + peak_live_bytes(call)

    def cache_bytes(self) -> int:
        return cpu_cache_bytes()

    def conditions(self) -> dict[str, Any]:
        return {"threads": self._threads, **cpu_state()}


def _seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
