"""Frozen tables from plain values that anybody may have written: each field is of the very type that it is said to have."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from tp_vgg.errors import BadInput
from tp_vgg.files.read import read_json

T = TypeVar("T")
Table = TypeVar("Table", covariant=True)
LARGEST = 1 << 60
"""Of any number: what is reckoned from it stays finite."""


def typed(cls: Callable[..., T], data: object, *, more: bool = False) -> T:
    """The dataclass ``cls`` from a mapping of its fields, lists as tuples; fields with a default may be missing. ``more``: other fields are
    passed over. Raises ``TypeError``, ``KeyError`` or ``ValueError`` for anything else."""
    if not isinstance(data, Mapping):
        raise TypeError(f"not an object with the fields of {cls.__name__}")
    kinds = _kinds(cls)
    if not more and set(data) - set(kinds):
        raise KeyError(f"fields that {cls.__name__} has not")
    return cls(**{name: _value(kind, data[name]) for name, kind in kinds.items() if name in data})


class FromDict(Protocol[Table]):
    """A class whose tables are made from plain values."""

    def from_dict(self, data: Any, /) -> Table: ...


def table_of(cls: FromDict[Table], data: object) -> Table | None:
    """The table that plain values hold; ``None`` where they hold none of this version."""
    try:
        return cls.from_dict(data)
    except (TypeError, KeyError, ValueError):
        return None


def read_table(path: Path, cls: FromDict[Table]) -> Table | None:
    """The table in a JSON file; ``None`` where there is no file, or none of this version in it."""
    try:
        return table_of(cls, read_json(path))
    except BadInput:
        return None


@cache
def _kinds(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _value(kind: Any, value: Any) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if kind is float and type(value) is int:
        return float(_value(int, value))
    if kind in (int, float):
        good = type(value) is kind and -LARGEST <= value <= LARGEST
    elif origin is Literal:
        good = type(value) is str and value in args
    elif origin in (Union, types.UnionType):
        first = next(one for one in args if one is not types.NoneType)
        return _value(type(value) if type(value) in args else first, value)
    elif origin is tuple and isinstance(value, list | tuple):
        return tuple(_value(args[0], one) for one in value)
    elif origin is dict and isinstance(value, dict):
        return {_value(args[0], key): _value(args[1], one) for key, one in value.items()}
    elif isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return typed(kind, value)
    else:
        good = origin is None and type(value) is kind
    if not good:
        raise TypeError(f"not of {kind}")
    return value
