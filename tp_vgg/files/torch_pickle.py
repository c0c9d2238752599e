"""The pickle in a torch file is interpreted here with stand-ins; nothing that it names is imported.

torch's own reader (``weights_only=True``) takes pickles of protocol 2 only, and few names. A pickle
of another protocol, or with harmless objects beside the tensors (a NumPy number, the arguments of a
script), is therefore written anew, in protocol 2 and without these objects.
"""

from __future__ import annotations

import codecs
import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn

import torch

from tp_vgg.errors import BadInput
from tp_vgg.files.left_out import DTYPES, HARMLESS, LeftOut, NumpyDtype, StandIn, objects
from tp_vgg.files.pickle_opcodes import check_opcodes

_ITEM_BYTES = {
    "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "ComplexDouble": 16, "ComplexFloat": 8,
    "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1,
}  # fmt: skip
"""Bytes per element, by the name of torch's storage class without "Storage"."""
_COPIES, _FREE = 4, 16 << 20
"""Tensors may have this many times the bytes of their data, and this many bytes more."""
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
        opcodes = check_opcodes(file)
        self.foreign = opcodes.protocol != _PROTOCOL or opcodes.replaced
        """True if torch's reader would refuse the pickle; see :meth:`rewritten`."""
        super().__init__(file)
        self.storages: dict[str, Storage] = {}
        """Storages that the pickle refers to, by key."""
        self._tensor_bytes = 0
        self._pairs_left = opcodes.count
        self._stand_ins: dict[tuple[str, str], Callable[..., object]] = {
            ("collections", "OrderedDict"): StandIn(self._ordered),
            ("torch._utils", "_rebuild_tensor_v2"): StandIn(self._rebuilt),
            ("torch._utils", "_rebuild_parameter"): StandIn(_parameter),
        }
        self.value: object = self.load()
        held = sum(storage.count * storage.kind.item_bytes for storage in self.storages.values())
        if self._tensor_bytes > _COPIES * held + _FREE:
            raise BadInput(
                f"refused: its tensors have {self._tensor_bytes} bytes and its data {held}; save "
                "each tensor once"
            )

    def rewritten(self, *rest: None) -> bytes:
        """Return the pickle in protocol 2, with an empty dict in place of each left-out object.

        ``rest`` ends each reference to tensor data; files before torch 1.6 have a None there.
        """
        file = io.BytesIO()
        _Rewriter(file, rest).dump(self.value)
        return file.getvalue()

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name in the pickle; raises :class:`BadInput` without one."""
        if (module, name) in self._stand_ins:
            return self._stand_ins[module, name]
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

    def _ordered(self, pairs: object = None) -> _Ordered:
        """Return an ordered dict, empty or of a list of pairs, as Python 2 writes it.

        All such lists together may have as many pairs as the pickle has opcodes.
        """
        if pairs is None:
            return _Ordered()
        if type(pairs) is not list or len(pairs) > self._pairs_left:
            raise BadInput("refused: an ordered dict that torch.save does not write")
        self._pairs_left -= len(pairs)
        if not all(type(pair) in (list, tuple) and type(pair[0]) in (str, int) for pair in pairs):
            raise BadInput("refused: an ordered dict whose keys are not strings")
        return _Ordered(pairs)

    def _rebuilt(self, *arguments: object) -> _Tensor:
        """Return the tensor of ``torch._utils._rebuild_tensor_v2``, and count its bytes."""
        tensor = _rebuild(*arguments)
        self._tensor_bytes += prod(tensor.size) * tensor.storage.kind.item_bytes
        return tensor

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
        if not isinstance(state, dict) or len(state) != 1 or "_metadata" not in state:
            raise BadInput(objects())


def _rebuild(
    storage: object, offset: object, size: object, stride: object, *rest: object
) -> _Tensor:
    """Check the arguments of ``torch._utils._rebuild_tensor_v2`` and return a stand-in."""
    valid = (
        type(storage) is Storage
        and _is_size(offset)
        and type(size) is type(stride) is tuple
        and len(size) == len(stride) <= 8
        and all(map(_is_size, size + stride))
        and len(rest) in (2, 3)
        and not any(rest[2:])
    )
    if not valid:
        raise BadInput("refused: a tensor that torch.save does not write")
    assert isinstance(storage, Storage) and isinstance(offset, int)
    assert isinstance(size, tuple) and isinstance(stride, tuple)
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
