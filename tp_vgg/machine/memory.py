"""Free memory and peak memory are measured here, and unused memory is released."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import sys
import warnings
from pathlib import Path

import torch


def free_memory(device: torch.device) -> int:
    """Return the number of bytes that can still be allocated on ``device``.

    On CUDA it is the GPU's free memory. On a CPU it is the available memory of the system (half of
    its physical memory if /proc/meminfo is missing, 2 GiB if that is unknown too), or what a
    container's limit leaves, if less.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    available = _physical_memory() // 2
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    return int(min(available, _container_leaves(Path("/sys/fs/cgroup"))))


def _physical_memory() -> int:
    """Return the bytes of memory of the machine; 4 GiB if the system does not tell (Windows)."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 4 << 30


def _container_leaves(group: Path) -> float:
    """Return the bytes left below the limit of a control group (version 2); infinity if no limit.

    /proc/meminfo does not know that limit. Cached file pages count as free: the kernel can drop
    them.
    """
    with contextlib.suppress(OSError, ValueError):  # no limit: the file is missing or says "max"
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(limit - used + int(stat["inactive_file"]), 0)
    return math.inf


class PeakMemory:
    """A PeakMemory measures the peak memory in use since its last reset, in bytes.

    On CUDA it is the memory that torch has allocated on the device. On a CPU it is the resident
    size of the process; if the system can't reset that peak, it counts from the process's start.
    It is 0 on Windows, where it is not measured.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.reset()

    def reset(self) -> None:
        """Start a new measurement from the memory in use now."""
        if self._device.type == "cuda":
            # The reset needs an initialised CUDA, which nothing else may have done yet.
            torch.cuda.init()
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            with contextlib.suppress(OSError):
                # "5" resets VmHWM, so that the peak is that of the current stage alone.
                Path("/proc/self/clear_refs").write_text("5")

    def bytes(self) -> int:
        """Return the peak since the last reset, in bytes."""
        return (
            torch.cuda.max_memory_allocated(self._device)
            if self._device.type == "cuda"
            else _peak_resident()
        )


def halved(block: int) -> int:
    """Free unused memory, warn, and return half of ``block``, the number of images that failed."""
    release_memory()
    warnings.warn(
        f"out of memory with {block} images at a time; going on with {block // 2}", stacklevel=2
    )
    return block // 2


def release_memory() -> None:
    """Free the memory that nothing refers to any more, including torch's cache on the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _peak_resident() -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
