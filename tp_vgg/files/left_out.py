"""Harmless objects that training scripts save beside the weights get stand-ins here.

A NumPy number becomes a plain one; a path, a device or the arguments of a script are left out.
Nothing is imported that a pickle names.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import torch

from tp_vgg.errors import BadInput


class LeftOut:
    """A LeftOut stands for a harmless object or class that is neither plain nor a tensor."""

    def __init__(self, *_: object) -> None:
        pass

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

    def __init__(self, code: object = "", *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or state[1:2] == (">",):
            raise BadInput(objects("numpy.dtype"))


def _numpy_number(dtype: object, data: object = b"") -> object:
    """Return a NumPy number as a plain one, and any other NumPy scalar as a left-out object."""
    form = {"f8": "<d", "f4": "<f", "f2": "<e", "b1": "?"}
    form |= {f"i{n}": f"<{c}" for n, c in zip((1, 2, 4, 8), "bhiq", strict=True)}
    form |= {f"u{n}": f"<{c}" for n, c in zip((1, 2, 4, 8), "BHIQ", strict=True)}
    code = form.get(str(dtype.code)) if isinstance(dtype, NumpyDtype) else None
    if code is None or not isinstance(data, bytes) or len(data) != struct.calcsize(code):
        return LeftOut()
    return struct.unpack(code, data)[0]


def _encoded(text: object, encoding: object = "") -> object:
    """Return the bytes that protocol 2 writes as Latin-1 text, in place of ``_codecs.encode``."""
    if type(text) is not str or encoding != "latin1":
        raise BadInput(objects("_codecs.encode"))
    return text.encode("latin1")


def _plain_dict(*_: object) -> dict[object, object]:
    return {}


DTYPES = {
    name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype | torch.layout)
}
HARMLESS: dict[tuple[str, str], Callable[..., object]] = {
    **{
        (module, name): LeftOut
        for module in ("builtins", "__builtin__")
        for name in ("bool", "complex", "dict", "float", "frozenset", "int", "list", "set", "str")
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
        for name, stand_in in (("scalar", _numpy_number), ("_reconstruct", LeftOut))
    },
    ("numpy", "dtype"): NumpyDtype,
    ("numpy", "ndarray"): LeftOut,
    ("_codecs", "encode"): _encoded,
    ("collections", "defaultdict"): _plain_dict,
    ("collections", "Counter"): LeftOut,
    ("argparse", "Namespace"): LeftOut,
    ("datetime", "datetime"): LeftOut,
    ("torch", "Size"): LeftOut,
    ("torch", "device"): LeftOut,
}
"""Stand-ins for what training scripts save beside the weights."""
