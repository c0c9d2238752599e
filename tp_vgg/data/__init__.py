"""Data sets are tensors; this package loads, splits, normalises and augments them.

``load_data`` and ``Split`` are public. They are imported when they are first used, because checking
an image folder must not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tp_vgg.data.datasets import load_data
    from tp_vgg.data.split import Split

_MODULE_OF = {"Split": "tp_vgg.data.split", "load_data": "tp_vgg.data.datasets"}
__all__ = ["Split", "load_data"]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)
