"""The opcodes of a pickle are checked here before anything is made of them.

An unpickler's time and memory are not bounded by the pickle: a tuple of tuples that share their
parts takes exponential time to hash. The costs are therefore summed first, on numbers in place of
objects.
"""

from __future__ import annotations

import io
import pickletools
from dataclasses import dataclass

from tp_vgg.errors import BadInput
from tp_vgg.files.left_out import objects

_REFUSED = {
    "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER",
}  # fmt: skip
_COST, _FREE = 16, 10_000
"""Most objects that may be hashed per opcode, and in any pickle."""
_CAP = 1 << 40
"""Sizes above are not told apart."""


@dataclass(frozen=True)
class Opcodes:
    """An Opcodes says what the opcodes of a pickle are."""

    protocol: int
    count: int
    replaced: bool
    """True if some were replaced by others, which make an object that can be written anew."""


def check_opcodes(file: io.BytesIO) -> Opcodes:
    """Refuse opcodes that ``torch.save`` does not write; ``file`` stays at its position.

    A memo index above the number of opcodes so far is refused too: the C unpickler allocates a
    memo as long as the largest index. So are keys that take long to hash, and integers of over 255
    bytes, which torch does not read.

    In ``file``, frozensets become tuples, bytearrays bytes, and empty bytes empty strings: the
    others can't be written in protocol 2 in a way that torch reads.
    """
    start = file.tell()
    protocol = count = 0
    replacements: dict[int, bytes] = {}
    sizes = _Sizes()
    for count, (code, argument, place) in enumerate(pickletools.genops(file), 1):
        name = code.name
        if "PUT" in name and int(argument or 0) >= count:
            raise BadInput("refused: its pickle numbers more objects than it holds")
        if name in _REFUSED:
            raise BadInput(objects())
        if name == "LONG4":
            raise BadInput(
                "refused: holds an integer of over 255 bytes; leave it out or save it as a string"
            )
        if name == "PROTO":
            protocol = max(protocol, int(argument or 0))
        if name == "FROZENSET":
            replacements[place or 0] = b"t"
        elif name == "BYTEARRAY8":
            replacements[place or 0] = b"\x8e" if argument else b"\x8d"
        elif name == "SHORT_BINBYTES" and not argument:
            replacements[place or 0] = b"U"
        sizes.follow(code, argument)
        if sizes.hashed > _COST * count + _FREE:
            raise BadInput("refused: a dict in its pickle has nested tuples as keys; use strings")
    with file.getbuffer() as buffer:
        for place, byte in replacements.items():
            buffer[place : place + 1] = byte
    file.seek(start)
    return Opcodes(protocol, count, bool(replacements))


class _Sizes:
    """A sizes object follows a pickle with the size of each object in its place.

    The size is that of the object written out, as far as hashing visits it: 1 for all but tuples.
    """

    def __init__(self) -> None:
        self.hashed = 0
        """Sum of the sizes of the keys of dicts and the members of sets."""
        self._stack: list[int | None] = []
        """Sizes, and None for a mark."""
        self._memo: dict[int, int] = {}

    def follow(self, code: pickletools.OpcodeInfo, argument: object) -> None:
        """Do what the opcode does; raises :class:`IndexError` if the stack is too short."""
        name, stack = code.name, self._stack
        if name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1] or 1
        elif "PUT" in name:
            self._memo[int(str(argument))] = stack[-1] or 1
        elif name.endswith("GET"):
            stack.append(self._memo.get(int(str(argument)), 1))
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "MARK":
            stack.append(None)
        else:
            items = self._taken(code)
            if name == "SETITEM":
                self.hashed += items[1]
            elif name == "SETITEMS":
                self.hashed += sum(items[1::2])
            elif name == "DICT":
                self.hashed += sum(items[::2])
            elif name == "ADDITEMS":
                self.hashed += sum(items[1:])
            tuples = name.startswith("TUPLE") or name == "FROZENSET"
            size = min(1 + sum(items), _CAP) if tuples else 1
            stack += [size] * len(code.stack_after)

    def _taken(self, code: pickletools.OpcodeInfo) -> list[int]:
        """Take what the opcode takes from the stack, and return the sizes without the mark."""
        before = [part.name for part in code.stack_before]
        items: list[int] = []
        single = len(before)
        if "mark" in before:
            single = before.index("mark")
            while (size := self._stack.pop()) is not None:
                items.append(size)
        for _ in range(single):
            items.append(self._stack.pop() or 1)
        return items[::-1]
