"""How long one call takes, on the CPU or on CUDA; and what else only the device can tell."""

from __future__ import annotations

import contextlib
import gc
import math
import statistics
import subprocess
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from tp_vgg.live_bytes import peak_live_bytes

Call = Callable[[], object]
SAMPLE_SECONDS = 0.05
"""Shortest sample: a million times the resolution of the clocks, thousands of times the cost of reading them."""


class Clock(Protocol):
    """A device as the benchmark sees it."""

    def sample(self, call: Call) -> float:
        """Seconds of one ``call``, from as many as fill :data:`SAMPLE_SECONDS`, after one that is not counted; on a CPU one of
        twice that long is the sample: so long, what the call before has left in the caches no longer shows."""

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

    def busy(self, call: Call) -> float | None:
        return None

    def peak_bytes(self, call: Call, held: int) -> int:
        return held + peak_live_bytes(call)

    def cache_bytes(self) -> int:
        sizes = [_cache_size(path) for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
        return max(sizes, default=32 << 20)

    def conditions(self) -> dict[str, Any]:
        found: dict[str, Any] = {"threads": self._threads, "clock_mhz": _cpu_mhz()}
        for name, path in (
            ("governor", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            ("load", "/proc/loadavg"),
        ):
            with contextlib.suppress(OSError):
                found[name] = Path(path).read_text().strip()
        return found


class Event(Protocol):
    """``torch.cuda.Event`` with timing."""

    def record(self) -> None: ...

    def elapsed_time(self, end_event: Any, /) -> float:
        """Milliseconds from this event to ``end_event``."""


class CudaCalls(Protocol):
    """All that the benchmark asks of a CUDA device, so that the rest is tested without one."""

    def event(self) -> Event: ...

    def synchronize(self) -> None: ...

    def kernel_seconds(self, call: Call, count: int) -> float | None:
        """Sum of the kernels' times over ``count`` calls; ``None`` where the profiler sees none."""

    def allocated_peak(self, call: Call) -> int:
        """The allocator's peak over one call, less what was allocated before it."""

    def cache_bytes(self) -> int:
        """Of the L2 cache."""

    def capability(self) -> tuple[int, int]:
        """CUDA's compute capability."""

    def capture(self, call: Call) -> Call:
        """A CUDA graph of ``call``, to be replayed. The replay keeps ``call`` alive, and so all tensors that it refers to."""

    def facts(self) -> dict[str, Any]:
        """Clocks, power state, the driver and cuDNN."""


class CudaClock:
    """Device time between two events around a block of calls, with no synchronisation inside the block."""

    def __init__(self, calls: CudaCalls, seconds: float = SAMPLE_SECONDS) -> None:
        self.calls, self._seconds = calls, seconds

    def sample(self, call: Call) -> float:
        return self._block(call, self._count(call))

    def busy(self, call: Call) -> float | None:
        count = self._count(call)
        wall = self._block(call, count) * count
        kernels = self.calls.kernel_seconds(call, count)
        return None if kernels is None else min(kernels / wall, 1.0)

    def peak_bytes(self, call: Call, held: int) -> int:
        return held + self.calls.allocated_peak(call)

    def cache_bytes(self) -> int:
        return self.calls.cache_bytes()

    def conditions(self) -> dict[str, Any]:
        return self.calls.facts()

    def _count(self, call: Call) -> int:
        """Calls that fill a sample; the call that tells it warms the caches too."""
        return max(math.ceil(self._seconds / max(self._block(call, 1), 1e-7)), 1)

    def _block(self, call: Call, count: int) -> float:
        start, end = self.calls.event(), self.calls.event()
        self.calls.synchronize()
        start.record()
        for _ in range(count):
            call()
        end.record()
        self.calls.synchronize()
        return start.elapsed_time(end) / 1000 / count


@dataclass(frozen=True)
class Replay:
    """A captured CUDA graph, with the call that it was captured from.

    A graph holds addresses alone: once nothing else refers to the weights and inputs behind them, their memory is given to others.
    """

    graph: torch.cuda.CUDAGraph
    captured: Call

    def __call__(self) -> None:
        self.graph.replay()


class TorchCuda:
    """:class:`CudaCalls` by torch and nvidia-smi."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def event(self) -> Event:
        event: Event = torch.cuda.Event(enable_timing=True)
        return event

    def synchronize(self) -> None:
        torch.cuda.synchronize(self._device)

    def kernel_seconds(self, call: Call, count: int) -> float | None:
        try:
            with (
                warnings.catch_warnings(action="ignore"),  # of torch 2.11: that it forgets the cycles before the last; there is one
                torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile,
            ):
                for _ in range(count):
                    call()
                self.synchronize()
        except RuntimeError:  # no permission, or another profiler is attached
            return None
        kernels = [
            event.self_device_time_total
            for event in profile.events()
            if event.device_type.name == "CUDA" and not event.is_user_annotation
        ]
        return float(sum(kernels)) / 1e6 or None

    def allocated_peak(self, call: Call) -> int:
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        call()
        self.synchronize()
        return torch.cuda.max_memory_allocated(self._device) - before

    def cache_bytes(self) -> int:
        return int(torch.cuda.get_device_properties(self._device).L2_cache_size)

    def capability(self) -> tuple[int, int]:
        return torch.cuda.get_device_capability(self._device)

    def capture(self, call: Call) -> Call:
        side = torch.cuda.Stream(self._device)
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(3):  # capture must not meet lazy initialisation
                call()
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        return Replay(graph, call)

    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = {"cudnn": torch.backends.cudnn.version()}
        uuid = f"GPU-{torch.cuda.get_device_properties(self._device).uuid}"
        for query in _QUERIES:
            found |= _nvidia_smi(uuid, query)
        return found


_QUERIES = (
    "driver_version,pstate,clocks.sm,clocks.mem,clocks.max.sm,temperature.gpu",
    "power.draw,power.limit",
    "clocks_throttle_reasons.active",  # renamed by newer drivers, hence alone
)


def _seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _nvidia_smi(uuid: str, query: str) -> dict[str, str]:
    """The fields of ``query``; none where nvidia-smi is missing or does not know them."""
    try:
        answer = subprocess.run(
            ["nvidia-smi", f"--id={uuid}", f"--query-gpu={query}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(query.split(","), (cell.strip() for cell in answer.stdout.split(",")), strict=False))


def _cache_size(path: Path) -> int:
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    try:
        text = path.read_text().strip()
        return int(text[:-1]) * units[text[-1]]
    except (OSError, ValueError, KeyError, IndexError):
        return 0


def _cpu_mhz() -> list[float]:
    with contextlib.suppress(OSError, ValueError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return []
