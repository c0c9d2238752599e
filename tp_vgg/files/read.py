"""Text and JSON are read here from files that anybody may have written."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from tp_vgg.errors import BadInput, shown

MAX_JSON = 64 << 20
"""Size limit of a JSON file in bytes; the record of a long sweep has some thousands."""
_MAX_DEPTH = 20
"""Limit on the levels of nesting in a JSON file; the innermost values count as a level."""
_LONGEST_NAME, _LONGEST_PATH = 255, 4095
"""Limits of Linux in bytes, of one part of a path and of the whole."""


def as_path(path: str | os.PathLike[str], name: str = "path") -> Path:
    """Return ``path`` as a :class:`Path`, which an empty text must not become: that would be ".".

    Raises :class:`BadInput`, which calls it ``name``, if it is not a path, is empty or blank, or
    holds what no file's name can: a NUL byte, a lone surrogate, a part of over 255 bytes.
    """
    text = None
    try:
        if isinstance(path, str | os.PathLike):
            text = os.fspath(path)
        raw = os.fsencode(text) if isinstance(text, str) else b""
    except UnicodeEncodeError:
        raw = b"\0"
    except Exception:  # noqa: BLE001  it may be the caller's code
        text = None
    if not isinstance(text, str):
        raise BadInput(f"{name}: {shown(path)} is not a path; give the name of a file or directory")
    fault = ""
    if not text.strip():
        fault = "is empty"
    elif b"\0" in raw:
        fault = "holds a NUL byte" if "\0" in text else f"{shown(text)} is no name of a file"
    elif len(raw) > _LONGEST_PATH or max(map(len, raw.split(b"/"))) > _LONGEST_NAME:
        fault = f"{shown(text)} is too long for the name of a file"
    if fault:
        raise BadInput(f"{name}: {fault}; give the name of a file or directory")
    return Path(text)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in ``path``; None if there is no file.

    Raises :class:`BadInput` if the file can't be read, is not a JSON object, is larger than
    :data:`MAX_JSON`, is nested too deeply, or holds a number that is NaN or infinite.
    """
    try:
        data = json.loads(read_text(path, MAX_JSON), parse_float=_finite, parse_constant=_finite)
        if _is_deep(data):
            raise ValueError("too deep")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        raise BadInput(
            f"{path}: can't be read as JSON; delete it and run its stage again"
        ) from None
    if not isinstance(data, dict):
        raise BadInput(f"{path}: must be a JSON object; delete it and run its stage again")
    return data


def read_text(path: Path, max_bytes: int) -> str:
    """Return the UTF-8 text of a regular file of at most ``max_bytes`` bytes.

    Raises ``OSError`` if it can't be read or is not a regular file (a pipe or device is not waited
    for), and ``ValueError`` if it is larger or is not UTF-8.
    """
    if path.exists() and not path.is_file():
        raise OSError(f"{path}: not a regular file")
    with path.open("rb") as file:
        raw = file.read(max_bytes + 1)
    if len(raw) > max_bytes:
        raise ValueError(f"{path}: over {max_bytes} bytes")
    return raw.decode()


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a number")
    return value


def _is_deep(data: object, levels: int = _MAX_DEPTH) -> bool:
    inner = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    return levels == 0 or any(_is_deep(value, levels - 1) for value in inner)
