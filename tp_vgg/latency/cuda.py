"""CUDA events time the calls on a GPU; one interface holds all that the benchmark needs of it."""

from __future__ import annotations

import math
import warnings
from functools import cached_property
from typing import Any, Protocol

import torch

from tp_vgg.machine.cuda_graph import Call, capture_graph
from tp_vgg.machine.sensors import NvidiaSmi, Nvml, gpu_of

CUDA_SAMPLE_SECONDS = 0.01
"""Shortest sample on CUDA: ten thousand times the resolution of CUDA events. It can be shorter
than on a CPU, because no other work on the device disturbs the times."""


class Event(Protocol):
    """An event marks a point in time on a CUDA stream, as ``torch.cuda.Event`` with timing does."""

    def record(self) -> None:
        """Put the event on the current stream."""

    def elapsed_time(self, end_event: Any, /) -> float:
        """Return the milliseconds from this event to ``end_event``."""


class CudaCalls(Protocol):
    """This interface holds all that the benchmark asks of a CUDA device; tests use a fake one."""

    def event(self) -> Event:
        """Create an event that can be timed."""

    def synchronize(self) -> None:
        """Wait until the device has finished all its work."""

    def kernel_seconds(self, call: Call, count: int) -> float | None:
        """Sum the seconds of all kernels over ``count`` calls.

        ``None`` if the profiler sees no kernel.
        """

    def allocated_peak(self, call: Call) -> int:
        """Return the allocator's peak in bytes over one call, minus the bytes allocated before."""

    def cache_bytes(self) -> int:
        """Return the size of the L2 cache in bytes."""

    def capability(self) -> tuple[int, int]:
        """Return CUDA's compute capability as (major, minor)."""

    def pool(self) -> Any:
        """Create a memory pool that several CUDA graphs share.

        Each graph may overwrite what another left in the pool. The memory is released with the
        last graph of the pool.
        """

    def capture(self, call: Call, repeats: int = 1, pool: Any = None) -> Call:
        """Capture ``call``, repeated ``repeats`` times, in a CUDA graph; return its replay.

        The graph uses the memory of ``pool`` (see :meth:`pool`), or its own if that is ``None``.
        The replay keeps ``call`` alive, and with it all tensors that ``call`` refers to.
        """

    def sm_mhz(self) -> float | None:
        """Read the present clock rate of the multiprocessors in MHz; ``None`` if unknown."""

    def default_sm_mhz(self) -> float | None:
        """Return the default clock rate of the multiprocessors in MHz; ``None`` if unknown."""

    def facts(self) -> dict[str, Any]:
        """Read the state and the versions of the device, as far as they are known.

        These are clock rates in MHz, power in watts, the temperature, the throttle reasons, and
        the versions of the driver and of cuDNN.
        """


class CudaClock:
    """A CUDA clock measures device time between two events around a block of calls.

    There is no synchronisation inside the block. ``seconds`` is the shortest sample.
    """

    def __init__(self, calls: CudaCalls, seconds: float = CUDA_SAMPLE_SECONDS) -> None:
        self.calls, self._seconds = calls, seconds

    def sample(self, call: Call) -> float:
        """Measure the seconds of one ``call``: the mean of the calls that fill a sample."""
        # The call that is timed to choose the number of calls also warms the caches.
        return self._block(call, self._count(self._block(call, 1)))

    def sample_seconds(self, call_seconds: float) -> float:
        """Estimate the seconds that :meth:`sample` takes for a call of ``call_seconds``."""
        return call_seconds * (1 + self._count(call_seconds))

    def speed(self) -> float | None:
        """Return the present clock rate divided by the default rate; ``None`` if unknown."""
        default = self.calls.default_sm_mhz()
        now = self.calls.sm_mhz() if default else None
        return now / default if now and default else None

    def busy(self, call: Call) -> float | None:
        """Measure the fraction of the wall time in which kernels run, in [0, 1].

        ``None`` if the profiler sees no kernel.
        """
        count = self._count(self._block(call, 1))
        wall = self._block(call, count) * count
        kernels = self.calls.kernel_seconds(call, count)
        return None if kernels is None else min(kernels / wall, 1.0)

    def peak_bytes(self, call: Call, resident_bytes: int) -> int:
        """Return ``resident_bytes`` plus what ``call`` allocates at its peak."""
        return resident_bytes + self.calls.allocated_peak(call)

    def cache_bytes(self) -> int:
        """Return the size of the L2 cache in bytes."""
        return self.calls.cache_bytes()

    def conditions(self) -> dict[str, Any]:
        """Read the state of the device; see :meth:`CudaCalls.facts`."""
        return self.calls.facts()

    def _count(self, call_seconds: float) -> int:
        """Return the number of calls that fill a sample."""
        return max(math.ceil(self._seconds / max(call_seconds, 1e-7)), 1)

    def _block(self, call: Call, count: int) -> float:
        """Measure the mean seconds of ``count`` calls in a row."""
        start, end = self.calls.event(), self.calls.event()
        self.calls.synchronize()
        start.record()
        for _ in range(count):
            call()
        end.record()
        self.calls.synchronize()
        return start.elapsed_time(end) / 1000 / count


class TorchCuda:
    """This class implements :class:`CudaCalls` with torch, and with NVML or nvidia-smi."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def event(self) -> Event:
        """Create an event that can be timed."""
        event: Event = torch.cuda.Event(enable_timing=True)
        return event

    def synchronize(self) -> None:
        """Wait until the device has finished all its work."""
        torch.cuda.synchronize(self._device)

    def kernel_seconds(self, call: Call, count: int) -> float | None:
        """Sum the seconds of all kernels over ``count`` calls.

        ``None`` if the profiler sees no kernel or is not available.
        """
        try:
            # torch 2.11 warns that only the last profiler cycle is kept; there is only one.
            with warnings.catch_warnings(action="ignore"):
                events = self._profiled(call, count)
        except RuntimeError:  # no permission, or another profiler is attached
            return None
        kernels = [
            event.self_device_time_total
            for event in events
            if event.device_type.name == "CUDA" and not event.is_user_annotation
        ]
        return float(sum(kernels)) / 1e6 or None

    def _profiled(self, call: Call, count: int) -> Any:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            for _ in range(count):
                call()
            self.synchronize()
        return profile.events()

    def allocated_peak(self, call: Call) -> int:
        """Return the allocator's peak in bytes over one call, minus the bytes allocated before."""
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        call()
        self.synchronize()
        return torch.cuda.max_memory_allocated(self._device) - before

    def cache_bytes(self) -> int:
        """Return the size of the L2 cache in bytes."""
        return int(torch.cuda.get_device_properties(self._device).L2_cache_size)

    def capability(self) -> tuple[int, int]:
        """Return CUDA's compute capability as (major, minor)."""
        return torch.cuda.get_device_capability(self._device)

    def pool(self) -> Any:
        """Create a memory pool that several CUDA graphs share; see :meth:`CudaCalls.pool`."""
        return torch.cuda.graph_pool_handle()

    def capture(self, call: Call, repeats: int = 1, pool: Any = None) -> Call:
        """Warm ``call`` up on a side stream and capture it; see :meth:`CudaCalls.capture`."""
        side = torch.cuda.Stream(self._device)
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(3):  # lazy initialisation must be over before the capture
                call()
        torch.cuda.current_stream(self._device).wait_stream(side)
        return capture_graph(call, self._device, repeats, pool)

    def sm_mhz(self) -> float | None:
        """Read the present clock rate of the multiprocessors in MHz; ``None`` if unknown."""
        return self._gpu.sm_mhz()

    def default_sm_mhz(self) -> float | None:
        """Return the default clock rate of the multiprocessors in MHz; ``None`` if unknown."""
        return self._default_sm_mhz

    def facts(self) -> dict[str, Any]:
        """Read the state and the versions of the device; see :meth:`CudaCalls.facts`."""
        state = self._gpu.state()
        if self._default_sm_mhz is not None:
            state["default_sm_mhz"] = self._default_sm_mhz
        return {"cudnn": torch.backends.cudnn.version(), **state}

    @cached_property
    def _gpu(self) -> Nvml | NvidiaSmi:
        return gpu_of(f"GPU-{torch.cuda.get_device_properties(self._device).uuid}")

    @cached_property
    def _default_sm_mhz(self) -> float | None:
        """Return the default clock rate in MHz that NVML or nvidia-smi reports.

        Desktop GPUs have no settable default rate; for them it is the rate that CUDA reports.
        """
        cuda_mhz = getattr(torch.cuda.get_device_properties(self._device), "clock_rate", 0) / 1000
        return self._gpu.default_sm_mhz() or cuda_mhz or None
