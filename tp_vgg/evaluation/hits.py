"""Hits say which images a network classifies correctly; here they become short texts.

This module does not import torch.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def pack_hits(hits: np.ndarray) -> str:
    """Pack hits (bool, or 0 and 1, [n]) into base64 with one bit per image."""
    import numpy as np

    return base64.b64encode(np.packbits(np.asarray(hits, bool)).tobytes()).decode()


def unpack_hits(text: str, n: int) -> np.ndarray:
    """Unpack what :func:`pack_hits` returned to bool [n].

    Raises ``ValueError`` if the text is not base64 or its length does not fit ``n`` images.
    """
    import numpy as np

    raw = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    if len(raw) != -(-n // 8):
        raise ValueError(f"{len(raw)} bytes for {n} images")
    return np.unpackbits(raw, count=n).astype(bool)
