"""The two ways in which a command ends badly; the command line turns them into exit statuses."""

from __future__ import annotations


class BadInput(ValueError):
    """What the user gave can't be used (exit 2): one line that names the file, the field and the fix."""


class WorkFailed(RuntimeError):
    """The work itself failed (exit 1): one line that says what happened and what is kept."""


def printable(text: str) -> str:
    """``text`` as one line of a terminal: what moves a cursor, or is no character, stands as its escape."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def shown(value: object) -> str:
    """A value of a file in a message: short, and one line."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, lists in lists
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` is Python's, CUDA's or the CPU allocator's way to say that there is no more memory (no torch)."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(
            mark in str(error)
            for mark in ("DefaultCPUAllocator", "CUDA error: out of memory", "ALLOC_FAILED")
        )
    )
