"""The processes that torchrun started for one command, and what they say to each other."""

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
    """This process among ``size``; alone, every call is a no-op."""

    rank: int = 0
    size: int = 1
    on_machine: int = 1
    """Processes on this machine: they share its memory."""

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def shard(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of ``items``: contiguous, in the order of the ranks."""
        return items[
            len(items) * self.rank // self.size : len(items) * (self.rank + 1) // self.size
        ]

    def shard_slice(self, count: int) -> slice:
        """:meth:`shard` of ``count`` things; never empty where there is one, so the first ranks' parts may overlap in a tiny batch."""
        part = slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)
        return part if part.stop > part.start else slice(0, 1)

    def any(self, *flags: bool, device: torch.device) -> list[bool]:
        """For each flag whether any rank has it up."""
        if self.size == 1:
            return list(flags)
        return [
            value > 0
            for value in self.all_reduce_sum(
                torch.tensor(flags, dtype=torch.float32, device=device)
            ).tolist()
        ]

    def data_parallel(self, model: nn.Module) -> nn.Module:
        """``model`` with its gradients averaged over the ranks; every rank starts from the leading one's weights."""
        if self.size == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(model, broadcast_buffers=False)

    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, in place, on each."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def broadcast(self, value: T) -> T:
        """The value that the leading process has."""
        if self.size == 1:
            return value
        held: list[T] = [value]
        distributed.broadcast_object_list(held)
        return held[0]

    def run_on_main(self, make: Callable[[], T]) -> T:
        """What ``make`` gives the leading process, which alone calls it."""
        held = [make()] if self.is_main else []
        return self.broadcast(held)[0]

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """The leading process does it first and leaves files that the others then find."""
        if self.size > 1 and not self.is_main:
            distributed.barrier()
        yield
        if self.size > 1 and self.is_main:
            distributed.barrier()


ALONE = Ranks()


def device_of_rank(device: torch.device) -> torch.device:
    """Make ``device`` the current one. ``cuda`` comes back with its number: under torchrun this process's own, else the current one.
    Raises :class:`BadInput` where this process has none."""
    if device.type != "cuda":
        return device
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        local, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if device.index is not None or local >= there:
            raise BadInput(
                f"--device {device}: under torchrun give --device cuda, and no more processes than the {there} CUDA devices"
            )
        device = torch.device("cuda", local)
    elif device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    torch.cuda.set_device(device)  # which takes no device without a number
    return device


@contextlib.contextmanager
def _said_on_stderr() -> Iterator[None]:
    """What compiled code prints meanwhile goes to stderr: gloo of torch 2.10 tells on stdout, where results belong, that it is connected."""
    buffers = ctypes.CDLL(None)  # C's own, which Python does not empty
    buffers.fflush(None)
    sys.stdout.flush()
    results = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        buffers.fflush(None)
        os.dup2(results, 1)
        os.close(results)


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """The ranks of this run, joined by gloo on the CPU and nccl on CUDA; alone where torchrun did not start it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    # The others wait while the leading process trains a baseline or decodes a data set.
    # nccl is told its device here: it would guess it at the first collective, and say so in a warning.
    own = device if device.type == "cuda" else None
    with _said_on_stderr():
        distributed.init_process_group(backend, timeout=timedelta(days=7), device_id=own)
    try:
        yield Ranks(distributed.get_rank(), size, int(os.environ.get("LOCAL_WORLD_SIZE", size)))
    finally:
        distributed.destroy_process_group()
