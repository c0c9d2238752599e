"""A command fails in one of two ways, and the command line turns each into an exit status."""

from __future__ import annotations

import importlib.util
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence


class BadInput(ValueError):
    """A BadInput says that the user's input can't be used (exit status 2).

    The message is one line that names the file, the field and the fix. Characters that are not
    printable, such as a line break in a file's name, are in it as escapes.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(printable(arg) if isinstance(arg, str) else arg for arg in args))


class WorkFailed(RuntimeError):
    """A WorkFailed says that the work itself failed (exit status 1).

    The message is one line that says what happened and what is kept.
    """


def printable(text: str) -> str:
    r"""Return ``text`` as one printable line, safe to show in a terminal.

    Each character that is not printable is replaced by its escape, such as ``\x1b``: a control
    character, which could move the cursor, or a lone surrogate from an undecodable file name.
    """
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def shown(value: object) -> str:
    """Return any value in a form for messages: ASCII, one line, 60 characters at most.

    Objects with no other text than their address in memory are named by their type.
    """
    text = ""
    try:
        for piece in _pieces(value):
            text += piece
            if len(text) > 60:
                break
    except Exception:  # noqa: BLE001  an integer of thousands of digits, or anybody's own __repr__
        text = "<"
    if text.startswith("<"):
        return f"a value of type {type(value).__name__}"[:60]
    if "\n" in text:
        text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def first_of(texts: Sequence[str], most: int = 3) -> str:
    """Return the first ``most`` texts as a list in words, and the number of the others."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


_BRACKETS: dict[type, Sequence[str]] = {
    list: "[]", tuple: "()", dict: "{}", set: "{}", frozenset: ("frozenset({", "})"),
    OrderedDict: ("OrderedDict({", "})"),
}  # fmt: skip


def _pieces(value: object) -> Iterator[str]:
    """Yield the text that ``ascii`` returns, which may be of any length, piece by piece.

    Lists in lists that hold one list twice have a text of exponential length.
    """
    kind = type(value)
    if kind not in _BRACKETS or not isinstance(value, Collection):
        yield ascii(value)
        return
    if not value and kind in (set, frozenset, OrderedDict):
        yield f"{kind.__name__}()"
        return
    opening, closing = _BRACKETS[kind]
    yield opening
    for place, entry in enumerate(value):
        if place:
            yield ", "
        yield from _pieces(entry)
        if isinstance(value, dict):
            yield ": "
            yield from _pieces(value[entry])
    yield ",)" if kind is tuple and len(value) == 1 else closing


def missing_packages(*names: str) -> str:
    """Return what to say if one of these packages is not installed; empty if all are.

    ``names``: those of modules that are names of packages too. tp_vgg itself is on no index, so
    that ``pip install`` has to name the packages and not an extra of tp_vgg.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    verb = "is" if len(missing) == 1 else "are"
    return (
        f"{', '.join(missing)} {verb} not installed; pip install {' '.join(missing)}"
        if missing
        else ""
    )


def out_of_memory(error: BaseException) -> bool:
    """Tell whether ``error`` is how Python, CUDA or the CPU allocator reports a lack of memory.

    torch is not imported: the error is recognised by its type's name or its text.
    """
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(
            mark in str(error)
            for mark in ("DefaultCPUAllocator", "CUDA error: out of memory", "ALLOC_FAILED")
        )
    )
