"""Dataclasses are built here from values that anybody may have written, with types checked.

A field gets a value of exactly the type that it is annotated with.
"""

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
"""Largest magnitude of a number from a file, so that results computed from it stay finite."""


def typed(cls: Callable[..., T], data: object, *, more: bool = False) -> T:
    """Build the dataclass ``cls`` from a mapping of its fields.

    A list becomes a tuple if the field is a tuple; an int becomes a float if the field is a float.
    Fields with a default may be missing; with ``more``, unknown fields are ignored. Raises
    ``TypeError``, ``KeyError`` or ``ValueError`` if ``data`` does not fit.
    """
    if not isinstance(data, Mapping):
        raise TypeError(f"not an object with the fields of {cls.__name__}")
    field_types = _field_types(cls)
    if not more and set(data) - set(field_types):
        raise KeyError(f"unknown fields for {cls.__name__}")
    return cls(
        **{name: _value(kind, data[name]) for name, kind in field_types.items() if name in data}
    )


class FromDict(Protocol[Table]):
    """A FromDict is a class whose tables can be built from plain values."""

    def from_dict(self, data: Any, /) -> Table:
        """Build a table from ``data``.

        Raises ``TypeError``, ``KeyError`` or ``ValueError`` if ``data`` does not fit.
        """


def table_of(cls: FromDict[Table], data: object) -> Table | None:
    """Return the table in ``data``; None if ``data`` is not a valid table of this version."""
    try:
        return cls.from_dict(data)
    except (TypeError, KeyError, ValueError):
        return None


def read_table(path: Path, cls: FromDict[Table]) -> Table | None:
    """Return the table in a JSON file; None if there is no file or no valid table in it."""
    try:
        return table_of(cls, read_json(path))
    except BadInput:
        return None


@cache
def _field_types(cls: Any) -> dict[str, Any]:
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
        first = next(member for member in args if member is not types.NoneType)
        return _value(type(value) if type(value) in args else first, value)
    elif origin is tuple and isinstance(value, list | tuple):
        return tuple(_value(args[0], item) for item in value)
    elif origin is dict and isinstance(value, dict):
        return {_value(args[0], key): _value(args[1], item) for key, item in value.items()}
    elif isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return typed(kind, value)
    else:
        good = origin is None and type(value) is kind
    if not good:
        raise TypeError(f"not of {kind}")
    return value
