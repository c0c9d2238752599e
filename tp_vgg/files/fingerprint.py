"""Values, texts and files are identified by their SHA-256."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def fingerprint(*parts: object) -> str:
    """Return the SHA-256 (hex) of ``parts``.

    Bytes and memory views are hashed as they are, anything else as JSON with sorted keys. The
    length of each part is hashed too, so that ("ab", "c") and ("a", "bc") differ.
    """
    digest = hashlib.sha256()
    for part in parts:
        raw = (
            part
            if isinstance(part, bytes | memoryview)
            else json.dumps(part, sort_keys=True).encode()
        )
        # Since Python 3.12 a view without dimensions has no length; in 3.11 it was 1.
        length = 1 if isinstance(raw, memoryview) and not raw.ndim else len(raw)
        digest.update(length.to_bytes(8, "big"))
        digest.update(raw)
    return digest.hexdigest()


def text_fingerprint(text: str) -> str:
    """Return the SHA-256 (hex) of a text in UTF-8, which is that of a file that holds it."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_fingerprint(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
