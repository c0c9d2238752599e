"""Harmless objects that training scripts save beside the weights get stand-ins here.

A NumPy number becomes a plain one; a path, a device or the arguments of a script are left out.
Nothing is imported that a pickle names.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import torch

from tp_vgg.errors import BadInput

_MOST_ARGUMENTS = 256
"""Copying the arguments of each call takes time, and one tuple may be those of many calls."""


class LeftOut:
    """A LeftOut stands for a harmless object or class that is neither plain nor a tensor."""

    __slots__ = ()

    def __init__(self, *arguments: object) -> None:
        _check_number(arguments)

    def __setstate__(self, _state: object) -> None:
        pass


def objects(name: str = "") -> str:
    """Return the message that a pickle holds more than data; ``name`` is the first such name."""
    what = f" ({ascii(name)[:60]})" if name else ""
    return (
        f"refused: holds pickled objects other than plain types and tensors{what}, as "
        "torch.save(model) writes; save its state_dict instead: torch.save(model.state_dict(), ...)"
    )


class NumpyDtype:
    """A NumpyDtype stands for a NumPy dtype."""

    code: object = ""

    def __init__(self, code: object = "", *rest: object) -> None:
        _check_number(rest)
        self.code = code

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or state[1:2] == (">",):
            raise BadInput(objects("numpy.dtype"))


@dataclass(frozen=True)
class StandIn:
    """A StandIn is called in place of a function; a pickle can't change it, as it can a function.

    The opcode BUILD sets attributes of the object that it is given, such as ``__defaults__``.
    """

    function: Callable[..., object]

    def __call__(self, *arguments: object) -> object:
        """Return the function's value."""
        _check_number(arguments)
        return self.function(*arguments)

    def __setstate__(self, _state: object) -> NoReturn:
        raise BadInput("refused: changes a function")


def _check_number(arguments: tuple[object, ...]) -> None:
    if len(arguments) > _MOST_ARGUMENTS:
        raise BadInput(f"refused: a call with over {_MOST_ARGUMENTS} arguments in its pickle")


_NUMBERS = {
    "f8": "<d", "f4": "<f", "f2": "<e", "b1": "?",
    "i1": "<b", "i2": "<h", "i4": "<i", "i8": "<q",
    "u1": "<B", "u2": "<H", "u4": "<I", "u8": "<Q",
}  # fmt: skip
"""Forms of the module :mod:`struct`, by NumPy's code."""


def _numpy_number(dtype: object, data: object = b"") -> object:
    """Return a NumPy number as a plain one, and any other NumPy scalar as a left-out object."""
    code = dtype.code if isinstance(dtype, NumpyDtype) else None
    form = _NUMBERS.get(code) if type(code) is str else None
    if form is None or not isinstance(data, bytes) or len(data) != struct.calcsize(form):
        return LeftOut()
    return struct.unpack(form, data)[0]


_MOST_BYTES = 64
"""More than the bytes of any number or date."""


def _encoded(text: object, encoding: object = "") -> object:
    """Return the bytes that protocol 2 writes as Latin-1 text, in place of ``_codecs.encode``.

    More bytes than a number has are left out: one text may be encoded many times.
    """
    if type(text) is not str or encoding != "latin1":
        raise BadInput(objects("_codecs.encode"))
    return text.encode("latin1") if 0 < len(text) <= _MOST_BYTES else LeftOut()


def _plain_dict(*_: object) -> dict[object, object]:
    return {}


DTYPES = {
    name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype | torch.layout)
}
HARMLESS: dict[tuple[str, str], Callable[..., object]] = {
    **{
        (module, name): LeftOut
        for module in ("builtins", "__builtin__")
        for name in (
            "bool",
            "bytearray",
            "bytes",
            "complex",
            "dict",
            "float",
            "frozenset",
            "int",
            "list",
            "range",
            "set",
            "slice",
            "str",
            "tuple",
            "xrange",
        )
    },
    **{
        (module, f"{kind}{system}Path"): LeftOut
        for module in ("pathlib", "pathlib._local")
        for kind in ("", "Pure")
        for system in ("Posix", "Windows")
    },
    **{
        (f"numpy.{core}.multiarray", name): stand_in
        for core in ("core", "_core")
        for name, stand_in in (("scalar", StandIn(_numpy_number)), ("_reconstruct", LeftOut))
    },
    ("numpy", "dtype"): NumpyDtype,
    ("numpy", "ndarray"): LeftOut,
    ("_codecs", "encode"): StandIn(_encoded),
    ("collections", "defaultdict"): StandIn(_plain_dict),
    ("collections", "Counter"): LeftOut,
    ("argparse", "Namespace"): LeftOut,
    ("types", "SimpleNamespace"): LeftOut,
    **{
        ("datetime", name): LeftOut
        for name in ("date", "datetime", "time", "timedelta", "timezone")
    },
    ("torch", "Size"): LeftOut,
    ("torch", "device"): LeftOut,
}
"""Stand-ins for what training scripts save beside the weights."""
