"""This module pairs the CPU or a GPU with the clocks that time calls on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from tp_vgg.errors import BadInput
from tp_vgg.latency.clock import Clock, CpuClock
from tp_vgg.latency.cuda import CudaCalls, CudaClock, TorchCuda
from tp_vgg.machine.environment import environment, versions

POINT_SECONDS = 0.01
"""Shortest sample of a single conv, in seconds."""


@dataclass(frozen=True)
class TimingDevice:
    """A timing device is a device together with the clocks that time calls on it."""

    device: torch.device
    clock: Clock
    quick: Clock
    """A clock with shorter samples (:data:`POINT_SECONDS`), for single convs."""
    cuda: CudaCalls | None
    """``None`` if the device is the CPU."""
    threads: int
    """Number of CPU threads of torch and ONNX Runtime."""

    @classmethod
    def of(cls, device: torch.device, threads: int | None = None) -> TimingDevice:
        """Create the timing device of ``device``.

        ``threads`` is the number of CPU threads; ``None`` stands for torch's default. Raises
        :class:`BadInput` if it is not a whole number of at least 1.
        """
        if threads is not None and (type(threads) is not int or threads < 1):
            raise BadInput(f"threads: {threads!r}: must be a whole number from 1 on")
        threads = threads or torch.get_num_threads()
        if device.type == "cuda":
            cuda = TorchCuda(device)
            return cls(device, CudaClock(cuda), CudaClock(cuda, POINT_SECONDS), cuda, threads)
        return cls(device, CpuClock(threads), CpuClock(threads, POINT_SECONDS), None, threads)

    @property
    def environment(self) -> dict[str, Any]:
        """Return the versions and the hardware, with the number of threads that are used."""
        return {**environment(self.device), **versions(("onnxruntime",)), "threads": self.threads}

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Make torch use this device and this number of threads for the duration of the block."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
                yield
        finally:
            torch.set_num_threads(before)

    def bandwidth(self) -> float:
        """Measure the bandwidth of the memory in bytes per second, reads and writes counted.

        It is the fastest of five samples of a copy that is far larger than the caches.
        """
        source = torch.zeros(
            max(4 * self.clock.cache_bytes(), 64 << 20), dtype=torch.uint8, device=self.device
        )
        target = torch.empty_like(source)
        return (
            2
            * source.numel()
            / min(self.clock.sample(lambda: target.copy_(source)) for _ in range(5))
        )
