"""A checkpoint's ``meta`` is made of plain types here, as far as nothing is lost.

This module does not import torch.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

from tp_vgg.errors import BadInput, printable, shown
from tp_vgg.files.checks import type_name

_DEPTH = 32
"""Deepest nesting that is kept."""
_NUMBERS = 10_000
"""Most elements of an array or a tensor; larger ones are data, which belongs in its own file."""
_BYTES = 1 << 20
"""Largest value of one key, as JSON."""
_NODES = 1 << 20
"""Most values and characters in one value; so many have more JSON than :data:`_BYTES`."""
_LARGEST = 1 << 128
"""Largest magnitude of an integer."""


def plain_meta(meta: object) -> dict[str, Any]:
    """Return a copy of ``meta`` that holds only dicts, lists, strings, numbers, bools and None.

    Tuples, arrays and tensors become lists, scalars of NumPy and torch become numbers, paths become
    strings, and so do keys that are numbers. In ``mean`` and ``std`` integers become floats, in
    ``classes`` strings.

    Raises :class:`BadInput`, which names the key, for a value of another type, or one that is too
    large for a checkpoint.
    """
    if not isinstance(meta, Mapping):
        raise BadInput(f"meta: must be an object, got {type_name(meta)}")
    plain: dict[str, Any] = {}
    for key, value in meta.items():
        name = _key(key, "meta", plain)
        plain[name] = _plain(value, f"meta: {_label(name)}", 0, [_NODES])
        if len(json.dumps(plain[name])) > _BYTES:
            raise BadInput(f"meta: {_label(name)}: over 1 MiB; save it in its own file")
    for name in ("mean", "std"):
        if name in plain:
            plain[name] = _floats(plain[name])
    if isinstance(plain.get("classes"), list):
        plain["classes"] = [
            str(entry) if type(entry) is int else entry for entry in plain["classes"]
        ]
    return plain


def plain_kept(kept: object) -> dict[str, Any]:
    """Return a copy of ``kept`` with plain types; raise :class:`BadInput` as for ``meta``."""
    if not isinstance(kept, Mapping):
        raise BadInput(f"kept: must be an object, got {type_name(kept)}")
    plain: dict[str, Any] = {}
    for key, value in kept.items():
        plain[_key(key, "kept", plain)] = _plain(value, f"kept: {_label(str(key))}", 0, [_NODES])
    return plain


def _plain(value: Any, where: str, depth: int, room: list[int]) -> Any:
    """Return a plain copy; ``room[0]`` counts down, as values in it may be shared many times."""
    room[0] -= 1 + (len(value) if isinstance(value, str) else 0)
    if room[0] < 0:
        raise BadInput(f"{where}: over 1 MiB; save it in its own file")
    if depth > _DEPTH:
        raise BadInput(f"{where}: nested over {_DEPTH} levels deep; use a flat list or object")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        if abs(value) >= _LARGEST:
            raise BadInput(f"{where}: an integer of over 128 bits; save it as a string")
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, os.PathLike):
        return _plain(os.fspath(value), where, depth, room)
    if isinstance(value, Mapping):
        plain: dict[str, Any] = {}
        for key, entry in value.items():
            name = _key(key, where, plain)
            room[0] -= len(name)
            plain[name] = _plain(entry, where, depth + 1, room)
        return plain
    if isinstance(value, list | tuple):
        return [_plain(entry, where, depth + 1, room) for entry in value]
    if hasattr(value, "tolist") and hasattr(value, "shape"):  # of NumPy or torch
        # An array without numbers may have billions of empty rows.
        size = math.prod(max(length, 1) for length in value.shape)
        if size > _NUMBERS:
            raise BadInput(f"{where}: {size} numbers; save them in a file of their own")
        try:
            numbers = value.tolist()
        except RuntimeError:  # a meta tensor has no values
            numbers = value
        if not hasattr(numbers, "tolist"):
            return _plain(numbers, where, depth, room)
    raise BadInput(
        f"{where}: {type_name(value)} can't be saved; make it a string, number, list or object"
    )


def _key(key: object, where: str, plain: Mapping[str, Any]) -> str:
    if not isinstance(key, str | int | float):
        raise BadInput(f"{where}: the key {shown(key)} is {type_name(key)}; make it a string")
    if isinstance(key, int) and abs(key) >= _LARGEST:
        raise BadInput(f"{where}: a key of over 128 bits; make it a string")
    name = str.__str__(key) if isinstance(key, str) else str(key)
    if name in plain:
        raise BadInput(f"{where}: the key {shown(name)} is there twice; keep one")
    return name


def _floats(value: Any) -> Any:
    """Return three numbers as a flat list of floats; images need dimensions of size 1 around it."""
    leaves = list(_leaves(value))
    if not isinstance(value, list) or len(leaves) != 3:
        return value
    return [float(entry) if type(entry) is int else entry for entry in leaves]


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for entry in value:
            yield from _leaves(entry)
    else:
        yield value


def _label(name: str) -> str:
    return printable(name)[:80]
