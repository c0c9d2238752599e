"""Arguments of public functions are checked here; each refusal names the argument and the fix.

This module does not import torch.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import islice
from typing import Any, TypeVar

from tp_vgg.errors import BadInput, printable, shown

T = TypeVar("T")
MAX_SEED = (1 << 63) - 1
"""Largest seed."""
MAX_MULTIPLE = 1 << 30
"""Largest ``round_to``; every width is below it."""
_SANE = 1_000_000
"""A limit of at least this size only catches slips; messages leave it out."""
_MOST = 4096
"""Most entries of a list or an object of options; an iterator may not end."""


def plain_number(value: Any) -> Any:
    """Return a scalar of NumPy or torch as Python's own number; other values as they are."""
    if isinstance(value, int) and not isinstance(value, bool):
        return int.__int__(value)
    try:
        if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
            return value.item()
    except Exception:  # noqa: BLE001  a tensor without values, or an object that fails at anything
        return value
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
    name = kind.__name__[:40]
    return f"{'an' if name[:1] in 'AEIOUaeiou' else 'a'} {name}"


def choice(name: str, value: object, allowed: Collection[str]) -> None:
    """Raise :class:`BadInput` unless ``value`` is one of the ``allowed`` strings, in their case."""
    if not isinstance(value, str) or value not in allowed:
        text = shown(str(value) if isinstance(value, str) else value)
        raise BadInput(f"{name} {text} is not one of {', '.join(allowed)}")


def true_or_false(name: str, value: object) -> None:
    """Raise :class:`BadInput` unless ``value`` is a boolean."""
    if not isinstance(plain_number(value), bool):
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
    if not low <= plain <= high or plain > sys.float_info.max or (above and plain == low):
        limits = f"above {low:g}" if above else f"of at least {low:g}"
        if high != math.inf:
            limits = f"{'above' if above else 'from'} {low:g} to {high:g}"
        raise BadInput(f"{name}: {shown(plain)}: must be a number {limits}")
    return float(plain)


def whole_number(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return ``value`` as an int; raise :class:`BadInput` unless it is one in [low, high]."""
    number = plain_number(value)
    if type(number) is not int or number < low or (high is not None and number > high):
        is_large = isinstance(number, int) and number > low
        unlimited = high is None or (high >= _SANE and not is_large)
        limits = f"of at least {low}" if unlimited else f"from {low} to {high}"
        got = shown(number) if isinstance(number, int | float | str) else type_name(number)
        raise BadInput(f"{name}: {got}: must be a whole number {limits}")
    return number


def sequence(name: str, values: Any, example: str, convert: Callable[[Any], T]) -> tuple[T, ...]:
    """Return the elements of ``values``, each put through ``convert``.

    Raises :class:`BadInput`, which shows the ``example``, for one value or a mapping instead of a
    list, and for an iterable that fails or does not end.
    """
    must = f"{name}: must be a list such as {example}"
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise BadInput(f"{must}, got {shown(values)}, {type_name(values)}")
    return tuple(convert(value) for value in _entries(must, values, values))


def mapping(must: str, values: Any) -> dict[Any, Any]:
    """Return the entries of ``values`` as a dict.

    Raises :class:`BadInput`, which begins with ``must``, for anything but a mapping, and for one
    that fails.
    """
    if not isinstance(values, Mapping):
        raise BadInput(f"{must}, got {type_name(values)}")
    return dict(_entries(must, values, values.items()))


def _entries(must: str, values: object, entries: Iterable[T]) -> list[T]:
    try:
        listed = list(islice(entries, _MOST + 1))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise BadInput(
            f"{must}; {type_name(values)} can't be read ({printable(reason)[:60]})"
        ) from error
    if len(listed) > _MOST:
        raise BadInput(f"{must}, got {type_name(values)} of over {_MOST} entries")
    return listed


def triple(name: str, value: Any, *, positive: bool = False) -> list[float]:
    """Return three finite numbers as floats; raises :class:`BadInput` for anything else."""
    try:
        if isinstance(value, str | bytes | Mapping):
            raise TypeError(name)
        numbers = [float(number) for number in islice(value, 4)]
    except Exception:  # noqa: BLE001  it may be the caller's code
        numbers = []
    if len(numbers) != 3 or not all(abs(number) < 1e6 for number in numbers):
        raise BadInput(f"{name}: must be three finite numbers, got {shown(value)}")
    if positive and min(numbers) <= 0:
        raise BadInput(f"{name}: must be three numbers above 0, got {shown(value)}")
    return numbers


def text(name: str) -> Callable[[Any], str]:
    """Return a function that returns a string, and raises :class:`BadInput` for anything else."""

    def checked(value: Any) -> str:
        if not isinstance(value, str):
            raise BadInput(f"{name}: must be strings, got {shown(value)}, {type_name(value)}")
        return str(value)

    return checked
