"""A command fails in one of two ways, and the command line turns each into an exit status."""

from __future__ import annotations


class BadInput(ValueError):
    """A BadInput says that the user's input can't be used (exit status 2).

    The message is one line that names the file, the field and the fix.
    """


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
    """Return a value from a file in a form for messages: ASCII, one line, 60 characters at most."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, deeply nested lists
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


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
