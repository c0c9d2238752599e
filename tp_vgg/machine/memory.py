"""Memory that is free, that was used at most, and that can be had back."""

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
    """Bytes that can still be allocated: on the accelerator, or what the system, or the container's limit, leaves."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    return int(min(available, _container_leaves(Path("/sys/fs/cgroup"))))


def _container_leaves(group: Path) -> float:
    """Bytes up to the limit of a control group (version 2), which /proc/meminfo knows nothing of; what it caches of files can be had back."""
    with contextlib.suppress(OSError, ValueError):  # no such limit: "max", or no such file
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(limit - used + int(stat["inactive_file"]), 0)
    return math.inf


class PeakMemory:
    """The peak used since the last reset: allocated on CUDA, resident size of the process on the CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.reset()

    def reset(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.init()  # an indexed device is not looked up, so that nothing else has done it yet
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text(
                    "5"
                )  # resets VmHWM, so that the peak is this stage's own

    def bytes(self) -> int:
        return (
            torch.cuda.max_memory_allocated(self._device)
            if self._device.type == "cuda"
            else _peak_resident()
        )


def halved(block: int) -> int:
    """Half of a block of images for which memory ran out, with a warning and what memory can be had back."""
    release_memory()
    warnings.warn(
        f"out of memory with {block} images at a time; going on with {block // 2}", stacklevel=2
    )
    return block // 2


def release_memory() -> None:
    """Give back what nothing refers to any more, on the accelerator too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _peak_resident() -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
