"""torchrun starts several processes for one command; these helpers let them work together."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed, nn

from tp_vgg.errors import BadInput

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """A Ranks object holds this process's rank and the number of processes (``size``) of a run.

    Its methods exchange values between the processes. In a run of one process nothing is exchanged:
    each method returns this process's own values.
    """

    rank: int = 0
    size: int = 1
    on_machine: int = 1
    """Number of processes on this machine, which share its memory."""

    @property
    def is_main(self) -> bool:
        """Return True if this is the main process, which alone writes files and prints."""
        return self.rank == 0

    def shard(self, items: Sequence[T]) -> Sequence[T]:
        """Return this rank's contiguous part of ``items``; the parts are in the order of ranks."""
        return items[
            len(items) * self.rank // self.size : len(items) * (self.rank + 1) // self.size
        ]

    def shard_slice(self, count: int) -> slice:
        """Return this rank's slice of ``range(count)``; it is never empty unless ``count`` is 0.

        With fewer items than ranks, as in a tiny batch, the slices of the first ranks overlap.
        """
        part = slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)
        return part if part.stop > part.start else slice(0, 1)

    def any(self, *flags: bool, device: torch.device) -> list[bool]:
        """Tell for each flag whether any rank has set it; ``device`` holds the exchanged tensor."""
        if self.size == 1:
            return list(flags)
        return [
            value > 0
            for value in self.all_reduce_sum(
                torch.tensor(flags, dtype=torch.float32, device=device)
            ).tolist()
        ]

    def data_parallel(self, model: nn.Module) -> nn.Module:
        """Wrap ``model`` so that its gradients are averaged over the ranks.

        Every rank starts from the main process's weights. The forward pass does not synchronise
        buffers, such as batch norm's running statistics.
        """
        if self.size == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(model, broadcast_buffers=False)

    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum ``tensor`` over all ranks in place and return it; every rank gets the sum."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def broadcast(self, value: T) -> T:
        """Return the main process's ``value`` on every rank."""
        if self.size == 1:
            return value
        values: list[T] = [value]
        distributed.broadcast_object_list(values)
        return values[0]

    def run_on_main(self, make: Callable[[], T]) -> T:
        """Call ``make`` on the main process alone and return its result on every rank."""
        results = [make()] if self.is_main else []
        return self.broadcast(results)[0]

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """Hold the other ranks back until the main process has left the block.

        They then find the files that it wrote.
        """
        if self.size > 1 and not self.is_main:
            distributed.barrier()
        yield
        if self.size > 1 and self.is_main:
            distributed.barrier()


ALONE = Ranks()


def device_of_rank(device: torch.device) -> torch.device:
    """Make this process's CUDA device the current one and return it with its number.

    ``cuda`` without a number is the device of the local rank under torchrun, and else the current
    device. A CPU is returned as it is. Under torchrun, raises :class:`BadInput` if ``device`` has a
    number or if this machine has no CUDA device for the local rank.
    """
    if device.type != "cuda":
        return device
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        local_rank, devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if device.index is not None or local_rank >= devices:
            raise BadInput(
                f"--device {device}: under torchrun give --device cuda, "
                f"and start no more processes than there are CUDA devices ({devices})"
            )
        device = torch.device("cuda", local_rank)
    elif device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    torch.cuda.set_device(device)  # refuses a device without a number
    return device


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Redirect stdout to stderr for the duration of the block, for compiled code too.

    Only results belong on stdout, but gloo of torch 2.10 prints there that it is connected.
    """
    libc = ctypes.CDLL(None)  # Python does not flush the buffers of C's stdio
    libc.fflush(None)
    sys.stdout.flush()
    saved_stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        libc.fflush(None)
        os.dup2(saved_stdout, 1)
        os.close(saved_stdout)


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Connect the processes that torchrun started, for the duration of the block; yield the ranks.

    They communicate through gloo on a CPU and through nccl on CUDA. A process that runs alone
    gets :data:`ALONE`.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    # nccl gets its device here: else it would guess it at the first collective and warn about that.
    device_id = device if device.type == "cuda" else None
    # A long timeout: the others wait while the main process trains a baseline or decodes images.
    timeout = timedelta(days=7)
    with _stdout_to_stderr():
        distributed.init_process_group(backend, timeout=timeout, device_id=device_id)
    try:
        yield Ranks(distributed.get_rank(), size, int(os.environ.get("LOCAL_WORLD_SIZE", size)))
    finally:
        distributed.destroy_process_group()
