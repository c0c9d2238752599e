"""Data sets as tensors, and how they are split, normalised and augmented.

``tp_vgg.data.datasets.load_data`` and ``tp_vgg.data.datasets.Split`` are public; they are loaded when they are first used, because
the refusals of a folder need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tp_vgg.data.datasets import load_data
    from tp_vgg.data.split import Split

_HOMES = {"Split": "tp_vgg.data.split", "load_data": "tp_vgg.data.datasets"}
__all__ = ["Split", "load_data"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
