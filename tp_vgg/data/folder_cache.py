"""The decoded images of a folder are kept in one file beside them, with their fingerprint."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tp_vgg.files.atomic import write_atomic

log = logging.getLogger(__name__)

CACHE = ".tp_vgg-cache.safetensors"
"""File name of the cache in the folder."""


@dataclass(frozen=True)
class Folder:
    """A folder holds the decoded images and labels of both splits."""

    arrays: dict[str, np.ndarray]
    """``train_images`` and ``test_images``: uint8 [N, S, S, 3]; ``*_labels``: int64 [N]."""
    classes: tuple[str, ...]
    """Names of the class directories; a label is an index into them."""
    fingerprint: str
    """SHA-256 (hex) over pixels, labels and class names."""
    mean: tuple[float, ...]
    """Mean of each channel of the training images, in [0, 1]."""
    std: tuple[float, ...]
    """Standard deviation of each channel of the training images, for pixels in [0, 1]."""
    corrupt: int = 0
    """Files that could not be decoded and were left out."""
    resized: bool = False
    """True if an image had another size before."""


def read_header(path: Path, key: str) -> dict[str, str] | None:
    """Return the cache's metadata, or ``None`` if it is missing, damaged or of another ``key``."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, "numpy") as file:
            meta: dict[str, str] = file.metadata() or {}
    except (SafetensorError, OSError):
        return None
    return meta if meta.get("key") == key else None


def read_cache(path: Path, key: str) -> Folder | None:
    """Return the folder in the cache, or ``None`` as :func:`read_header` does."""
    from safetensors.numpy import load_file

    meta = read_header(path, key)
    if meta is None:
        return None
    classes, mean, std = (tuple(json.loads(meta[name])) for name in ("classes", "mean", "std"))
    return Folder(
        load_file(path),
        classes,
        meta["fingerprint"],
        mean,
        std,
        int(meta["corrupt"]),
        meta.get("resized") == "True",  # older caches do not say it
    )


def write_cache(path: Path, folder: Folder, key: str) -> None:
    """Write the cache; a note says so if the system does not let it."""
    from safetensors.numpy import save

    lists = {name: json.dumps(getattr(folder, name)) for name in ("classes", "mean", "std")}
    meta = {
        "key": key,
        "fingerprint": folder.fingerprint,
        "corrupt": str(folder.corrupt),
        "resized": str(folder.resized),
        **lists,
    }
    try:
        write_atomic(path, lambda file: file.write(save(folder.arrays, meta)))
    except OSError as error:
        log.info(
            f"the decoded images could not be cached in {path.parent} ({error.strerror}); "
            "the next start decodes again"
        )
