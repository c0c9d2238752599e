"""A ``.pth`` file is checked here before torch reads it: its contents, sizes and checksums.

``torch.load(weights_only=True)`` runs no code from the file, but it trusts sizes: the file may
declare a storage larger than its bytes, a tensor larger than its storage, or an archive member
larger than the archive. So the pickle is interpreted once with stand-ins in place of tensors.
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
"""Size limit in bytes of a pickle of names and shapes; a VGG's has some thousands."""
_DIRECTORY = 0x10
"""MS-DOS attribute in an archive's headers that marks a member as a directory."""
_MAGIC = 0x1950A86A20F9469CFC6C
"""Number at the beginning of every file of torch before 1.6."""
_LEGACY_VERSION = 1001
"""Version number of the format of torch before 1.6."""
_ITEM_BYTES = {
    "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "ComplexDouble": 16, "ComplexFloat": 8,
    "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1,
}  # fmt: skip
"""Bytes per element, by the name of torch's storage class without "Storage"."""


def read_archive(path: Path) -> object:
    """Return the object that ``torch.save`` wrote, with its tensors on the CPU.

    Raises :class:`BadInput` if the file holds or declares anything but plain types and tensors
    whose bytes are in the file, and :class:`OSError` if it can't be read.
    """
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
        # torch warns about some files before it refuses them.
        with warnings.catch_warnings(action="ignore"):
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
"""Exceptions that a damaged archive or pickle raises while it is checked."""


@dataclass(frozen=True)
class _StorageClass:
    """A stand-in for one of torch's storage classes."""

    item_bytes: int

    def __setstate__(self, _state: object) -> NoReturn:
        raise BadInput("refused: changes a storage class")


@dataclass(frozen=True)
class _Storage:
    """A stand-in for a storage, the data of one or more tensors."""

    key: str
    kind: _StorageClass
    count: int
    """Number of elements."""

    __setstate__ = _StorageClass.__setstate__


@dataclass(frozen=True)
class _Tensor:
    """A stand-in for a tensor."""

    storage: _Storage

    __setstate__ = _StorageClass.__setstate__


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
            # torch reads nothing from a member that is marked as a directory, and then leaves the
            # memory of the tensor uninitialised.
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
            raise BadInput("refused: its members are not those of one call of torch.save")
        by_name = {name: info for (_, name), info in members.items()}
        if "data.pkl" not in by_name or "constants.pkl" in by_name:
            raise BadInput("refused: not written by torch.save (TorchScript programs are not read)")
        if by_name["data.pkl"].file_size > MAX_PICKLE:
            raise BadInput("refused: its pickle is too large")
        pickled = _CheckingUnpickler(io.BytesIO(archive.read(by_name["data.pkl"])))
        for key, storage in pickled.storages.items():
            data = by_name.get(f"data/{key}")
            if data is None or data.file_size != storage.count * storage.kind.item_bytes:
                raise BadInput(
                    f"damaged: tensor data {ascii(key)[:40]} does not have the declared length"
                )
        for info in members.values():
            _check_crc(archive, info)


def _check_crc(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    with archive.open(info) as member:  # reading to the end raises BadZipFile if the CRC differs
        while member.read(1 << 20):
            pass


def _check_legacy(file: BinaryIO) -> None:
    """Check a file of torch before 1.6.

    It holds five pickles (magic number, version, system, object, keys of the storages), and then
    the length and the bytes of each storage.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    beginning = io.BytesIO(file.read(MAX_PICKLE))
    # Each pickle begins where the one before ended.
    pickles = [_CheckingUnpickler(beginning) for _ in range(5)]
    magic, version, _, _, keys = (part.value for part in pickles)
    if magic != _MAGIC or version != _LEGACY_VERSION or not isinstance(keys, list):
        raise BadInput(_OBJECTS)
    storages = pickles[3].storages
    if set(keys) != set(storages) or len(keys) != len(storages):
        raise BadInput("damaged: its list of tensor data does not match its tensors")
    offset = beginning.tell()
    for key in keys:
        file.seek(offset)
        storage = storages[key]
        if int.from_bytes(file.read(8), "little") != storage.count:
            raise BadInput(
                f"damaged: tensor data {ascii(key)[:40]} does not have the declared length"
            )
        offset += 8 + storage.count * storage.kind.item_bytes
    if offset != size:
        raise BadInput("damaged: shorter or longer than its tensors")


class _CheckingUnpickler(pickle.Unpickler):
    """A checking unpickler reads one pickle with stand-ins for tensors.

    It refuses every name that it does not know, and imports nothing that the pickle names.
    """

    def __init__(self, file: io.BytesIO) -> None:
        self._check_opcodes(file)
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}
        """Storages that the pickle refers to, by key."""
        self.value: object = self.load()

    @staticmethod
    def _check_opcodes(file: io.BytesIO) -> None:
        """Refuse opcodes that ``torch.save`` does not write, and leave ``file`` at its position.

        A memo index above the number of opcodes so far is refused too: the C unpickler allocates a
        memo as long as the largest index.
        """
        start = file.tell()
        for position, (code, argument, _) in enumerate(pickletools.genops(file)):
            if "PUT" in code.name and int(argument or 0) > position:
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
        """Return the stand-in for a name in the pickle; raises :class:`BadInput` without one."""
        if (module, name) in _STAND_INS:
            return _STAND_INS[module, name]
        item_bytes = _ITEM_BYTES.get(name.removesuffix("Storage")) if module == "torch" else None
        if item_bytes and name.endswith("Storage"):
            return _StorageClass(item_bytes)
        if module.partition(".")[0] == "torch" and "_rebuild_" in name:
            raise BadInput(
                f"refused: {name!a:.40}: every tensor must be a dense CPU tensor "
                "(not sparse, quantized or meta)"
            )
        raise BadInput(_OBJECTS)

    def persistent_load(self, pid: Any) -> _Storage:
        """Return the stand-in for the storage that ``pid`` names; refuse any other reference."""
        if (
            not isinstance(pid, tuple)
            or len(pid) not in (5, 6)
            or pid[0] != "storage"
            or pid[5:] not in ((), (None,))
        ):
            raise BadInput("refused: a reference to something other than tensor data")
        _, kind, key, _, count = pid[:5]
        if type(kind) is not _StorageClass or type(key) is not str or not _is_size(count):
            raise BadInput("refused: a reference to something other than tensor data")
        storage = _Storage(key, kind, count)
        if self.storages.setdefault(key, storage) != storage:
            raise BadInput(
                f"refused: tensor data {ascii(key)[:40]} is declared with two types or lengths"
            )
        return storage


class _Ordered(OrderedDict[object, object]):
    """An OrderedDict with no attribute but the ``_metadata`` (module versions) of a state dict."""

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict) or set(state) != {"_metadata"}:
            raise BadInput(_OBJECTS)


_OBJECTS = (
    "refused: holds pickled objects other than plain types and tensors; save its state_dict instead"
)


def _rebuild(
    storage: object, offset: object, size: object, stride: object, *rest: object
) -> _Tensor:
    """Check the arguments of ``torch._utils._rebuild_tensor_v2`` and return a stand-in."""
    valid = (
        type(storage) is _Storage
        and _is_size(offset)
        and all(type(sizes) is tuple and all(map(_is_size, sizes)) for sizes in (size, stride))
        and len(size) == len(stride) <= 8  # type: ignore[arg-type]
        and len(rest) in (2, 3)
        and not any(rest[2:])
    )
    if not valid:
        raise BadInput("refused: a tensor that torch.save does not write")
    assert (
        isinstance(storage, _Storage)
        and isinstance(offset, int)
        and isinstance(size, tuple)
        and isinstance(stride, tuple)
    )
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if prod(size) and (last >= storage.count or prod(size) > storage.count):
        raise BadInput(f"refused: a tensor of {ascii(size)[:40]} reaches outside of its data")
    return _Tensor(storage)


def _parameter(data: object, *_: object) -> object:
    """Return the tensor of a parameter, in place of ``torch._utils._rebuild_parameter``."""
    return data


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


_STAND_INS: dict[tuple[str, str], Callable[..., object]] = {
    ("collections", "OrderedDict"): _Ordered,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}
