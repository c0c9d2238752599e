"""A ``.pth`` file, looked through before torch reads it: what it names, what it declares, and whether that is there.

``torch.load(weights_only=True)`` runs no code from the file, but it believes sizes: a storage may be said to be larger than its bytes, a tensor
than its storage, an archive's member than the archive. Here the pickle is interpreted once with stand-ins in the place of tensors.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import torch

from tp_vgg.errors import BadInput

MAX_PICKLE = 16 << 20
"""Bytes of names and shapes; a VGG's are some thousands."""
_DIRECTORY = 0x10
"""The MS-DOS attribute in an archive's headers."""
_MAGIC = 0x1950A86A20F9469CFC6C
"""What files of torch before 1.6 begin with, and their version."""
_LEGACY_VERSION = 1001
_ITEM_BYTES = {
    "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "ComplexDouble": 16, "ComplexFloat": 8,
    "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1,
}  # fmt: skip
"""torch's storage classes."""


def read_archive(path: Path) -> object:
    """What ``torch.save`` wrote, on the CPU. Raises :class:`BadInput` for files that hold or claim anything but plain types and tensors
    whose bytes are in the file, :class:`OSError` where it can't be read."""
    if path.exists() and not path.is_file():
        raise BadInput("not a regular file")
    with path.open("rb") as file:
        try:
            _check(file)
        except BadInput:
            raise
        except (pickle.UnpicklingError, zipfile.BadZipFile, EOFError, *_DAMAGE) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)[:100]
            raise BadInput(f"can't be read as a checkpoint ({reason!a})") from None
        file.seek(0)
        with warnings.catch_warnings(action="ignore"):  # about files that are refused below
            return torch.load(file, map_location="cpu", weights_only=True)


_DAMAGE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    RecursionError,
    NotImplementedError,
)
"""What unpickling stand-ins and reading a damaged archive raise."""


@dataclass(frozen=True)
class _Kind:
    """The stand-in of a storage class."""

    item_bytes: int

    def __setstate__(self, _state: object) -> NoReturn:
        raise BadInput("refused: changes a storage class")


@dataclass(frozen=True)
class _Storage:
    key: str
    kind: _Kind
    count: int
    """Elements."""

    __setstate__ = _Kind.__setstate__


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage

    __setstate__ = _Kind.__setstate__


def _check(file: BinaryIO) -> None:
    start = file.read(4)
    file.seek(0)
    if start == b"PK\x03\x04":
        _check_zip(file)
    elif start[:1] == b"\x80":
        _check_legacy(file)
    else:
        raise BadInput("can't be read as a checkpoint (neither an archive nor a pickle)")


def _check_zip(file: BinaryIO) -> None:
    size = file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        members = {}
        for info in archive.infolist():
            root, _, name = info.filename.partition("/")
            plain = re.fullmatch(
                r"[\w.-]+(/[\w.-]+)*", name, re.ASCII
            ) and ".." not in info.filename.split("/")
            stored = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1
            # Of a member that is marked as a directory torch reads nothing and leaves the tensor's memory as it was.
            if (
                not plain
                or not stored
                or info.external_attr & _DIRECTORY
                or (root, name) in members
            ):
                raise BadInput(
                    f"refused: member {ascii(info.filename)[:60]} is not one that torch.save writes"
                )
            members[root, name] = info
        if (
            len({root for root, _ in members}) != 1
            or sum(info.file_size for info in members.values()) > size
        ):
            raise BadInput("refused: its members are not those of one torch.save")
        named = {name: info for (_, name), info in members.items()}
        if "data.pkl" not in named or "constants.pkl" in named:
            raise BadInput("refused: not an archive of torch.save (a TorchScript program is none)")
        if named["data.pkl"].file_size > MAX_PICKLE:
            raise BadInput("refused: its pickle is too large")
        for key, storage in _Stand(io.BytesIO(archive.read(named["data.pkl"]))).found.items():
            data = named.get(f"data/{key}")
            if data is None or data.file_size != storage.count * storage.kind.item_bytes:
                raise BadInput(
                    f"damaged: tensor data {ascii(key)[:40]} is not as long as it is said to be"
                )
        for info in members.values():
            _check_sum(archive, info)


def _check_sum(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    with archive.open(info) as member:  # which raises where the bytes do not add up
        while member.read(1 << 20):
            pass


def _check_legacy(file: BinaryIO) -> None:
    """Five pickles (magic number, version, system, object, keys of the storages), then each storage's length and bytes."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    text = io.BytesIO(file.read(MAX_PICKLE))
    parts = [_Stand(text) for _ in range(5)]  # each begins where the one before ended
    magic, version, _, _, keys = (part.value for part in parts)
    if magic != _MAGIC or version != _LEGACY_VERSION or not isinstance(keys, list):
        raise BadInput(
            "refused: holds pickled objects other than plain types and tensors; save its state_dict instead"
        )
    storages = parts[3].found
    if set(keys) != set(storages) or len(keys) != len(storages):
        raise BadInput("damaged: its tensor data is not that of its tensors")
    place = text.tell()
    for key in keys:
        file.seek(place)
        storage = storages[key]
        if int.from_bytes(file.read(8), "little") != storage.count:
            raise BadInput(
                f"damaged: tensor data {ascii(key)[:40]} is not as long as it is said to be"
            )
        place += 8 + storage.count * storage.kind.item_bytes
    if place != size:
        raise BadInput("damaged: shorter or longer than its tensors")


class _Stand(pickle.Unpickler):
    """Reads one pickle with stand-ins for tensors; what is not known is refused, and nothing that it names is imported."""

    def __init__(self, file: io.BytesIO) -> None:
        self._check_opcodes(file)
        super().__init__(file)
        self.found: dict[str, _Storage] = {}
        """Storages that tensors refer to, by key."""
        self.value: object = self.load()

    @staticmethod
    def _check_opcodes(file: io.BytesIO) -> None:
        """Leave ``file`` where it was. The C unpickler allots a memo as long as the largest index that it is told."""
        start = file.tell()
        for place, (code, argument, _) in enumerate(pickletools.genops(file)):
            if "PUT" in code.name and int(argument or 0) > place:
                raise BadInput("refused: its pickle numbers more objects than it holds")
            if code.name in (
                "INST",
                "OBJ",
                "NEWOBJ_EX",
                "STACK_GLOBAL",
                "EXT1",
                "EXT2",
                "EXT4",
                "NEXT_BUFFER",
                "BYTEARRAY8",
            ):
                raise BadInput(_OBJECTS)
        file.seek(start)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        kind = _ITEM_BYTES.get(name.removesuffix("Storage")) if module == "torch" else None
        if kind and name.endswith("Storage"):
            return _Kind(kind)
        if module.partition(".")[0] == "torch" and "_rebuild_" in name:
            raise BadInput(
                f"refused: {name!a:.40}: every tensor must be a dense CPU tensor (not sparse, quantized or meta)"
            )
        raise BadInput(_OBJECTS)

    def persistent_load(self, pid: Any) -> _Storage:
        if (
            not isinstance(pid, tuple)
            or len(pid) not in (5, 6)
            or pid[0] != "storage"
            or pid[5:] not in ((), (None,))
        ):
            raise BadInput("refused: a reference to something other than tensor data")
        _, kind, key, _, count = pid[:5]
        if type(kind) is not _Kind or type(key) is not str or not _is_size(count):
            raise BadInput("refused: a reference to something other than tensor data")
        storage = _Storage(key, kind, count)
        if self.found.setdefault(key, storage) != storage:
            raise BadInput(
                f"refused: tensor data {ascii(key)[:40]} is said to be of two kinds or lengths"
            )
        return storage


class _Ordered(OrderedDict[object, object]):
    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict) or set(state) != {
            "_metadata"
        }:  # modules' versions, in every state dict
            raise BadInput(_OBJECTS)


_OBJECTS = (
    "refused: holds pickled objects other than plain types and tensors; save its state_dict instead"
)


def _rebuild(
    storage: object, offset: object, size: object, stride: object, *rest: object
) -> _Tensor:
    """``torch._utils._rebuild_tensor_v2``."""
    good = (
        type(storage) is _Storage
        and _is_size(offset)
        and all(type(sides) is tuple and all(map(_is_size, sides)) for sides in (size, stride))
        and len(size) == len(stride) <= 8  # type: ignore[arg-type]
        and len(rest) in (2, 3)
        and not any(rest[2:])
    )
    if not good:
        raise BadInput("refused: a tensor that torch.save does not write")
    assert (
        isinstance(storage, _Storage)
        and isinstance(offset, int)
        and isinstance(size, tuple)
        and isinstance(stride, tuple)
    )
    last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
    if prod(size) and (last >= storage.count or prod(size) > storage.count):
        raise BadInput(f"refused: a tensor of {ascii(size)[:40]} reaches outside of its data")
    return _Tensor(storage)


def _parameter(data: object, *_: object) -> object:
    """``torch._utils._rebuild_parameter``."""
    return data


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


_KNOWN: dict[tuple[str, str], Callable[..., object]] = {
    ("collections", "OrderedDict"): _Ordered,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}
