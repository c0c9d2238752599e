"""A ``.pth`` file is checked here before torch reads it: its contents, sizes and checksums.

``torch.load(weights_only=True)`` runs no code from the file, but it trusts sizes: the file may
declare a storage larger than its bytes, a tensor larger than its storage, or an archive member
larger than the archive. So the pickle is interpreted once with stand-ins in place of tensors.
"""

from __future__ import annotations

import io
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch

from tp_vgg.errors import BadInput
from tp_vgg.files.other_formats import HEAD, other_archive, other_format
from tp_vgg.files.torch_pickle import CheckingUnpickler

MAX_PICKLE = 16 << 20
"""Size limit in bytes of a pickle of names and shapes; a VGG's has some thousands."""
_DIRECTORY = 0x10
"""MS-DOS attribute in an archive's headers that marks a member as a directory."""
_MAGIC = 0x1950A86A20F9469CFC6C
"""Number at the beginning of every file of torch before 1.6."""
_LEGACY_VERSION = 1001
"""Version number of the format of torch before 1.6."""


def read_archive(path: Path) -> object:
    """Return the object that ``torch.save`` wrote, with its tensors on the CPU.

    Raises :class:`BadInput` if the file holds or declares anything but plain types and tensors
    whose bytes are in the file, and :class:`OSError` if it can't be read.
    """
    if path.exists() and not path.is_file():
        raise BadInput("not a regular file")
    with path.open("rb") as file:
        try:
            source = _checked(file)
        except BadInput:
            raise
        except (pickle.UnpicklingError, zipfile.BadZipFile, EOFError, *_DAMAGE) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)[:100]
            raise BadInput(f"can't be read as a checkpoint ({reason!a})") from None
        source.seek(0)
        # torch warns about some files before it refuses them.
        with warnings.catch_warnings(action="ignore"):
            return torch.load(source, map_location="cpu", weights_only=True)


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


def _checked(file: BinaryIO) -> BinaryIO:
    """Check ``file`` and return it, or a copy that torch reads if it can't read ``file`` itself."""
    start = file.read(HEAD)
    file.seek(0)
    if start.startswith(b"PK\x03\x04"):
        return _checked_zip(file)
    if start[:1] == b"\x80":
        return _checked_legacy(file)
    what = other_format(start)
    raise BadInput(what or "can't be read as a checkpoint (neither an archive nor a pickle)")


def _checked_zip(file: BinaryIO) -> BinaryIO:
    size = file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        what = other_archive(archive.namelist())
        if what is not None:
            raise BadInput(what)
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
        if "data.pkl" not in by_name:
            raise BadInput("refused: not written by torch.save")
        if by_name["data.pkl"].file_size > MAX_PICKLE:
            raise BadInput("refused: its pickle is too large")
        pickled = CheckingUnpickler(io.BytesIO(archive.read(by_name["data.pkl"])))
        for key, storage in pickled.storages.items():
            data = by_name.get(f"data/{key}")
            if data is None or data.file_size != storage.count * storage.kind.item_bytes:
                raise BadInput(
                    f"damaged: tensor data {ascii(key)[:40]} does not have the declared length"
                )
        for info in members.values():
            _check_crc(archive, info)
        if not pickled.foreign:
            return file
        copy = io.BytesIO()
        with zipfile.ZipFile(copy, "w") as rewritten:
            for name, info in by_name.items():
                content = pickled.rewritten() if name == "data.pkl" else archive.read(info)
                rewritten.writestr(info.filename, content)
        return copy


def _check_crc(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    with archive.open(info) as member:  # reading to the end raises BadZipFile if the CRC differs
        while member.read(1 << 20):
            pass


def _checked_legacy(file: BinaryIO) -> BinaryIO:
    """Check a file of torch before 1.6, and return it or a copy as :func:`_checked`.

    It holds five pickles (magic number, version, system, object, keys of the storages), and then
    the length and the bytes of each storage.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    beginning = io.BytesIO(file.read(MAX_PICKLE))
    # Each pickle begins where the one before ended.
    first = CheckingUnpickler(beginning)
    if first.value != _MAGIC:
        raise BadInput(
            "refused: a pickle that torch.save did not write; save the state_dict with torch.save"
        )
    pickles = [first, *(CheckingUnpickler(beginning) for _ in range(4))]
    magic, version, _, _, keys = (part.value for part in pickles)
    if magic != _MAGIC or version != _LEGACY_VERSION or not isinstance(keys, list):
        raise BadInput("refused: a pickle that torch.save did not write")
    storages = pickles[3].storages
    if not all(type(key) is str for key in keys):
        raise BadInput("damaged: its list of tensor data does not match its tensors")
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
    if not any(part.foreign for part in pickles):
        return file
    file.seek(beginning.tell())
    return io.BytesIO(b"".join(part.rewritten(None) for part in pickles) + file.read())
