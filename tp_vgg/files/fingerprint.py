"""SHA-256 of values and of files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def fingerprint(*parts: object) -> str:
    """SHA-256 (hex) over ``parts``: bytes and buffers as they are, anything else as canonical JSON."""
    digest = hashlib.sha256()
    for part in parts:
        raw = (
            part
            if isinstance(part, bytes | memoryview)
            else json.dumps(part, sort_keys=True).encode()
        )
        length = (
            1 if isinstance(raw, memoryview) and not raw.ndim else len(raw)
        )  # a scalar has no length since Python 3.12
        digest.update(length.to_bytes(8, "big"))
        digest.update(raw)
    return digest.hexdigest()


def text_fingerprint(text: str) -> str:
    """SHA-256 (hex) of a text as UTF-8: that of the file that holds it."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_fingerprint(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
