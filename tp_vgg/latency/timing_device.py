"""A device, and how things are timed on it."""

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
"""Shortest sample of a single conv."""


@dataclass(frozen=True)
class TimingDevice:
    """A device and how things are timed on it."""

    device: torch.device
    clock: Clock
    quick: Clock
    """The same with shorter samples, for single convs."""
    cuda: CudaCalls | None
    threads: int

    @classmethod
    def of(cls, device: torch.device, threads: int | None = None) -> TimingDevice:
        """``threads``: of the CPU; torch's default where ``None``. Raises :class:`BadInput` for fewer than one."""
        if threads is not None and (type(threads) is not int or threads < 1):
            raise BadInput(f"threads: {threads!r}: must be a whole number from 1 on")
        threads = threads or torch.get_num_threads()
        if device.type == "cuda":
            cuda = TorchCuda(device)
            return cls(device, CudaClock(cuda), CudaClock(cuda, POINT_SECONDS), cuda, threads)
        return cls(device, CpuClock(threads), CpuClock(threads, POINT_SECONDS), None, threads)

    @property
    def environment(self) -> dict[str, Any]:
        """Versions and hardware, with the threads that are used."""
        return {**environment(self.device), **versions(("onnxruntime",)), "threads": self.threads}

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Its threads, and its stream, are those that torch uses."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
                yield
        finally:
            torch.set_num_threads(before)

    def bandwidth(self) -> float:
        """Bytes per second of a copy far larger than the caches, read and write counted; the best of five."""
        source = torch.zeros(
            max(4 * self.clock.cache_bytes(), 64 << 20), dtype=torch.uint8, device=self.device
        )
        target = torch.empty_like(source)
        return (
            2
            * source.numel()
            / min(self.clock.sample(lambda: target.copy_(source)) for _ in range(5))
        )
