"""Seconds between CUDA events, and all calls of a GPU behind one interface."""

from __future__ import annotations

import math
import warnings
from functools import cached_property
from typing import Any, Protocol

import torch

from tp_vgg.machine.cuda_graph import Call, capture_graph
from tp_vgg.machine.sensors import NvidiaSmi, Nvml, gpu_of

CUDA_SAMPLE_SECONDS = 0.01
"""Shortest sample on CUDA: ten thousand times the resolution of its events; nothing else runs on it that would have to even out."""


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

    def pool(self) -> Any:
        """Memory for graphs to share. It is given back with the last of them; what one leaves in it the next overwrites."""

    def capture(self, call: Call, repeats: int = 1, pool: Any = None) -> Call:
        """A CUDA graph of ``call``, ``repeats`` times, to be replayed; in a ``pool`` of :meth:`pool`, or with memory of its own. The replay
        keeps ``call`` alive, and so all tensors that it refers to."""

    def sm_mhz(self) -> float | None:
        """Clock of the multiprocessors now; ``None`` where it is not known."""

    def default_sm_mhz(self) -> float | None:
        """Their default clock; ``None`` where it is not known."""

    def facts(self) -> dict[str, Any]:
        """Clocks in megahertz, power in watts, temperature, what throttles, the driver and cuDNN, as far as they are known."""


class CudaClock:
    """Device time between two events around a block of calls, with no synchronisation inside the block."""

    def __init__(self, calls: CudaCalls, seconds: float = CUDA_SAMPLE_SECONDS) -> None:
        self.calls, self._seconds = calls, seconds

    def sample(self, call: Call) -> float:
        return self._block(
            call, self._count(self._block(call, 1))
        )  # the call that tells how many warms the caches too

    def sample_seconds(self, call_seconds: float) -> float:
        return call_seconds * (1 + self._count(call_seconds))

    def speed(self) -> float | None:
        default = self.calls.default_sm_mhz()
        now = self.calls.sm_mhz() if default else None
        return now / default if now and default else None

    def busy(self, call: Call) -> float | None:
        count = self._count(self._block(call, 1))
        wall = self._block(call, count) * count
        kernels = self.calls.kernel_seconds(call, count)
        return None if kernels is None else min(kernels / wall, 1.0)

    def peak_bytes(self, call: Call, held: int) -> int:
        return held + self.calls.allocated_peak(call)

    def cache_bytes(self) -> int:
        return self.calls.cache_bytes()

    def conditions(self) -> dict[str, Any]:
        return self.calls.facts()

    def _count(self, call_seconds: float) -> int:
        """Calls that fill a sample."""
        return max(math.ceil(self._seconds / max(call_seconds, 1e-7)), 1)

    def _block(self, call: Call, count: int) -> float:
        start, end = self.calls.event(), self.calls.event()
        self.calls.synchronize()
        start.record()
        for _ in range(count):
            call()
        end.record()
        self.calls.synchronize()
        return start.elapsed_time(end) / 1000 / count


class TorchCuda:
    """:class:`CudaCalls` by torch, and by NVML or nvidia-smi."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def event(self) -> Event:
        event: Event = torch.cuda.Event(enable_timing=True)
        return event

    def synchronize(self) -> None:
        torch.cuda.synchronize(self._device)

    def kernel_seconds(self, call: Call, count: int) -> float | None:
        try:
            with warnings.catch_warnings(
                action="ignore"
            ):  # torch 2.11: of cycles that are forgotten; there is one
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
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        call()
        self.synchronize()
        return torch.cuda.max_memory_allocated(self._device) - before

    def cache_bytes(self) -> int:
        return int(torch.cuda.get_device_properties(self._device).L2_cache_size)

    def capability(self) -> tuple[int, int]:
        return torch.cuda.get_device_capability(self._device)

    def pool(self) -> Any:
        return torch.cuda.graph_pool_handle()

    def capture(self, call: Call, repeats: int = 1, pool: Any = None) -> Call:
        side = torch.cuda.Stream(self._device)
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(3):  # capture must not meet lazy initialisation
                call()
        torch.cuda.current_stream(self._device).wait_stream(side)
        return capture_graph(call, self._device, repeats, pool)

    def sm_mhz(self) -> float | None:
        return self._gpu.sm_mhz()

    def default_sm_mhz(self) -> float | None:
        return self._default_sm_mhz

    def facts(self) -> dict[str, Any]:
        state = self._gpu.state()
        if self._default_sm_mhz is not None:
            state["default_sm_mhz"] = self._default_sm_mhz
        return {"cudnn": torch.backends.cudnn.version(), **state}

    @cached_property
    def _gpu(self) -> Nvml | NvidiaSmi:
        return gpu_of(f"GPU-{torch.cuda.get_device_properties(self._device).uuid}")

    @cached_property
    def _default_sm_mhz(self) -> float | None:
        """NVML's; where a device has none that can be set, as those for desktops have, the rate that CUDA states."""
        stated = getattr(torch.cuda.get_device_properties(self._device), "clock_rate", 0) / 1000
        return self._gpu.default_sm_mhz() or stated or None
