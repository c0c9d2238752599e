"""This module measures the peak size of the tensors that a call keeps alive at once."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Live(TorchDispatchMode):
    """This mode counts the bytes of every storage that an operator creates, until it is freed.

    A weak reference to the storage tells when it is freed.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._storages: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {
            _storage_key(leaf)
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, torch.Tensor)
        }
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and _storage_key(leaf) not in inputs | self._storages:
                self._begin(leaf)
        return out

    def _begin(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = _storage_key(tensor), storage.nbytes()
        self._storages.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._end, key, size)

    def _end(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self.now -= size


def _storage_key(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def peak_live_bytes(call: Callable[[], object]) -> int:
    """Return the largest number of bytes of tensors created in one ``call`` and alive at once.

    Memory that kernels use internally is not counted.
    """
    with _Live() as live:
        call()
    return int(live.peak)
