"""Arguments of public functions are checked here; each refusal names the argument and the fix.

This module does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

from tp_vgg.errors import BadInput, shown

T = TypeVar("T")


def plain_number(value: Any) -> Any:
    """Return a scalar of NumPy or torch as Python's own number; other values as they are."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return value.item()
    return value


def type_name(value: object) -> str:
    """Return the type of ``value`` in words, with an article, for messages."""
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        bytes: "bytes",
        list: "a list",
        tuple: "a tuple",
        set: "a set",
        dict: "an object",
        type(None): "null",
    }
    kind = type(value)
    if kind in names:
        return names[kind]
    return f"{'an' if kind.__name__[:1] in 'AEIOUaeiou' else 'a'} {kind.__name__}"


def choice(name: str, value: object, allowed: Collection[str]) -> None:
    """Raise :class:`BadInput` unless ``value`` is one of the ``allowed`` strings, in their case."""
    if not isinstance(value, str) or value not in allowed:
        text = shown(str(value) if isinstance(value, str) else value)
        raise BadInput(f"{name} {text} is not one of {', '.join(allowed)}")


def true_or_false(name: str, value: object) -> None:
    """Raise :class:`BadInput` unless ``value`` is a boolean."""
    if not isinstance(value, bool):
        raise BadInput(f"{name}: {shown(value)}: must be True or False")


def number(
    name: str, value: Any, low: float, high: float = math.inf, *, above: bool = False
) -> float:
    """Return ``value`` as a float; raise :class:`BadInput` unless it is finite and in [low, high].

    With ``above``, it must also be above ``low``.
    """
    plain = plain_number(value)
    if isinstance(plain, bool) or not isinstance(plain, int | float):
        raise BadInput(f"{name}: must be a number, got {type_name(plain)}")
    if not (math.isfinite(plain) and low <= plain <= high) or (above and plain == low):
        limits = f"above {low:g}" if above else f"of at least {low:g}"
        limits = limits if high == math.inf else f"from {low:g} to {high:g}"
        raise BadInput(f"{name}: {shown(plain)}: must be a number {limits}")
    return float(plain)


def whole_number(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return ``value`` as an int; raise :class:`BadInput` unless it is one in [low, high]."""
    number = plain_number(value)
    if type(number) is not int or number < low or (high is not None and number > high):
        limits = f"of at least {low}" if high is None else f"from {low} to {high}"
        got = shown(number) if isinstance(number, int | float | str) else type_name(number)
        raise BadInput(f"{name}: {got}: must be a whole number {limits}")
    return number


def sequence(name: str, values: Any, example: str, convert: Callable[[Any], T]) -> tuple[T, ...]:
    """Return the elements of ``values``, each put through ``convert``.

    Raises :class:`BadInput`, which shows the ``example``, for one value or a mapping instead of a
    list.
    """
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        got = f"{shown(values)}, {type_name(values)}"
        raise BadInput(f"{name}: must be a list such as {example}, got {got}")
    return tuple(convert(value) for value in values)


def text(name: str) -> Callable[[Any], str]:
    """Return a function that returns a string, and raises :class:`BadInput` for anything else."""

    def checked(value: Any) -> str:
        if not isinstance(value, str):
            raise BadInput(f"{name}: must be strings, got {shown(value)}, {type_name(value)}")
        return str(value)

    return checked
