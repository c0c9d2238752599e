"""The pickle in a torch file is interpreted here with stand-ins; nothing that it names is imported.

torch's own reader (``weights_only=True``) takes pickles of protocol 2 only, and few names. A pickle
of another protocol, or with harmless objects beside the tensors (a NumPy number, the arguments of a
script), is therefore written anew, in protocol 2 and without these objects.
"""

from __future__ import annotations

import codecs
import io
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn

import torch

from tp_vgg.errors import BadInput
from tp_vgg.files.left_out import DTYPES, HARMLESS, LeftOut, NumpyDtype, objects

_ITEM_BYTES = {
    "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "ComplexDouble": 16, "ComplexFloat": 8,
    "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1,
}  # fmt: skip
"""Bytes per element, by the name of torch's storage class without "Storage"."""
_REFUSED_OPCODES = {
    "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER",
    "BYTEARRAY8",
}  # fmt: skip
_PROTOCOL = 2
"""The only protocol that torch's reader takes."""


@dataclass(frozen=True)
class StorageClass:
    """A StorageClass stands for one of torch's storage classes."""

    name: str
    """Its name without "Storage"."""

    @property
    def item_bytes(self) -> int:
        """Return the bytes per element."""
        return _ITEM_BYTES[self.name]

    def __setstate__(self, _state: object) -> NoReturn:
        raise BadInput("refused: changes a storage class")


@dataclass(frozen=True)
class Storage:
    """A Storage stands for the data of one or more tensors."""

    key: str
    kind: StorageClass
    count: int
    """Number of elements."""

    __setstate__ = StorageClass.__setstate__


@dataclass(frozen=True)
class _Tensor:
    """A stand-in for a tensor."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    __setstate__ = StorageClass.__setstate__


class CheckingUnpickler(pickle.Unpickler):
    """A checking unpickler reads one pickle with stand-ins for tensors.

    It refuses every name that it does not know, and imports nothing that the pickle names.
    """

    def __init__(self, file: io.BytesIO) -> None:
        self.foreign = self._check_opcodes(file) != _PROTOCOL
        """True if torch's reader would refuse the pickle; see :meth:`rewritten`."""
        super().__init__(file)
        self.storages: dict[str, Storage] = {}
        """Storages that the pickle refers to, by key."""
        self.value: object = self.load()

    def rewritten(self, *rest: None) -> bytes:
        """Return the pickle in protocol 2, with an empty dict in place of each left-out object.

        ``rest`` ends each reference to tensor data; files before torch 1.6 have a None there.
        """
        file = io.BytesIO()
        _Rewriter(file, rest).dump(self.value)
        return file.getvalue()

    @staticmethod
    def _check_opcodes(file: io.BytesIO) -> int:
        """Refuse opcodes that ``torch.save`` does not write, and return the protocol.

        A memo index above the number of opcodes so far is refused too: the C unpickler allocates a
        memo as long as the largest index. ``file`` stays at its position.
        """
        start = file.tell()
        protocol = 0
        for position, (code, argument, _) in enumerate(pickletools.genops(file)):
            if "PUT" in code.name and int(argument or 0) > position:
                raise BadInput("refused: its pickle numbers more objects than it holds")
            if code.name in _REFUSED_OPCODES:
                raise BadInput(objects())
            if code.name == "PROTO":
                protocol = max(protocol, int(argument or 0))
        file.seek(start)
        return protocol

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name in the pickle; raises :class:`BadInput` without one."""
        if (module, name) in _STAND_INS:
            return _STAND_INS[module, name]
        if module == "torch" and name.endswith("Storage") and name[:-7] in _ITEM_BYTES:
            return StorageClass(name[:-7])
        if (module, name) in HARMLESS or (module == "torch" and name in DTYPES):
            self.foreign = True
            return HARMLESS.get((module, name), LeftOut)
        if module.partition(".")[0] == "torch" and "_rebuild_" in name:
            raise BadInput(
                f"refused: {name!a:.40}: every tensor must be a dense CPU tensor of float32 "
                "(not sparse, quantized, meta or float8)"
            )
        raise BadInput(objects(f"{module}.{name}"))

    def persistent_load(self, pid: Any) -> Storage:
        """Return the stand-in for the storage that ``pid`` names; refuse any other reference."""
        if (
            not isinstance(pid, tuple)
            or len(pid) not in (5, 6)
            or pid[0] != "storage"
            or pid[5:] not in ((), (None,))
        ):
            raise BadInput("refused: a reference to something other than tensor data")
        _, kind, key, _, count = pid[:5]
        if type(kind) is not StorageClass or type(key) is not str or not _is_size(count):
            raise BadInput("refused: a reference to something other than tensor data")
        storage = Storage(key, kind, count)
        if self.storages.setdefault(key, storage) != storage:
            raise BadInput(
                f"refused: tensor data {ascii(key)[:40]} is declared with two types or lengths"
            )
        return storage


class _Rewriter(pickle.Pickler):
    """A rewriter pickles stand-ins as what they stand for."""

    def __init__(self, file: io.BytesIO, rest: tuple[None, ...]) -> None:
        super().__init__(file, _PROTOCOL)
        self._rest = rest

    def persistent_id(self, obj: Any) -> object:
        """Return torch's reference to tensor data, or None for any other object."""
        if type(obj) is not Storage:
            return None
        kind = getattr(torch, f"{obj.kind.name}Storage")
        return ("storage", kind, obj.key, "cpu", obj.count, *self._rest)

    def reducer_override(self, obj: Any) -> Any:
        """Return how an object is made; raises :class:`BadInput` for any but the known ones."""
        if type(obj) is _Tensor:
            place = (obj.storage, obj.offset, obj.size, obj.stride)
            return torch._utils._rebuild_tensor_v2, (*place, False, OrderedDict())
        if type(obj) is _Ordered or type(obj) is OrderedDict:
            return OrderedDict, (), None, None, iter(obj.items())
        if type(obj) in (LeftOut, NumpyDtype) or obj in (LeftOut, NumpyDtype):
            return OrderedDict, ()
        if any(obj is name for name in _WRITTEN):
            return NotImplemented
        if isinstance(obj, type) and obj.__module__ == "torch" and obj.__name__[:-7] in _ITEM_BYTES:
            return NotImplemented
        raise BadInput(objects())


class _Ordered(OrderedDict[object, object]):
    """An OrderedDict with no attribute but the ``_metadata`` (module versions) of a state dict."""

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict) or set(state) != {"_metadata"}:
            raise BadInput(objects())


def _rebuild(
    storage: object, offset: object, size: object, stride: object, *rest: object
) -> _Tensor:
    """Check the arguments of ``torch._utils._rebuild_tensor_v2`` and return a stand-in."""
    valid = (
        type(storage) is Storage
        and _is_size(offset)
        and all(type(sizes) is tuple and all(map(_is_size, sizes)) for sizes in (size, stride))
        and len(size) == len(stride) <= 8  # type: ignore[arg-type]
        and len(rest) in (2, 3)
        and not any(rest[2:])
    )
    if not valid:
        raise BadInput("refused: a tensor that torch.save does not write")
    assert (
        isinstance(storage, Storage)
        and isinstance(offset, int)
        and isinstance(size, tuple)
        and isinstance(stride, tuple)
    )
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if prod(size) and (last >= storage.count or prod(size) > storage.count):
        raise BadInput(f"refused: a tensor of {ascii(size)[:40]} reaches outside of its data")
    return _Tensor(storage, offset, size, stride)


def _parameter(data: object, *_: object) -> object:
    """Return the tensor of a parameter, in place of ``torch._utils._rebuild_parameter``."""
    return data


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


_WRITTEN = (OrderedDict, set, codecs.encode, torch._utils._rebuild_tensor_v2)
"""Names that the pickle of plain types and tensors needs in protocol 2, besides storages."""
_STAND_INS: dict[tuple[str, str], Callable[..., object]] = {
    ("collections", "OrderedDict"): _Ordered,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}
