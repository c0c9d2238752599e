"""Which images a network gets right, as a short text (no torch)."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def pack_hits(hits: np.ndarray) -> str:
    """Which images a model gets right, bool or 0 and 1 [n], one bit an image as base64."""
    import numpy as np

    return base64.b64encode(np.packbits(np.asarray(hits, bool)).tobytes()).decode()


def unpack_hits(text: str, n: int) -> np.ndarray:
    """The inverse of :func:`pack_hits`, bool [n]. Raises ``ValueError`` for a text that is not of ``n`` images."""
    import numpy as np

    raw = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    if len(raw) != -(-n // 8):
        raise ValueError(f"{len(raw)} bytes for {n} images")
    return np.unpackbits(raw, count=n).astype(bool)
