"""Text and JSON from files that anybody may have written."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tp_vgg.errors import BadInput

MAX_JSON = 64 << 20
"""Bytes of a record; a long sweep's has some thousands."""
_DEEPEST = 20
"""Of objects and lists in each other."""


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in ``path``; ``None`` where there is no file. Raises :class:`BadInput` for anything else, and for numbers that are none."""
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


def read_text(path: Path, most: int) -> str:
    """The UTF-8 text of a regular file of ``most`` bytes at most. Raises ``OSError`` or ``ValueError`` for any other; a pipe or a device
    is not waited for."""
    if path.exists() and not path.is_file():
        raise OSError(f"{path}: not a regular file")
    with path.open("rb") as file:
        raw = file.read(most + 1)
    if len(raw) > most:
        raise ValueError(f"{path}: over {most} bytes")
    return raw.decode()


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a number")
    return value


def _is_deep(data: object, left: int = _DEEPEST) -> bool:
    inner = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    return left == 0 or any(_is_deep(one, left - 1) for one in inner)
