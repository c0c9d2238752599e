"""The formats that a network can be exported to, as data (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A kind of file. ``program``: it computes logits by itself; any other holds weights for :func:`tp_vgg.load`, equal to the last bit."""

    suffix: str
    program: bool


EXPORT_FORMATS: Mapping[str, Format] = {
    "onnx": Format(".onnx", program=True),
    "safetensors": Format(".safetensors", program=False),
    "sparse": Format(".sparse", program=False),
    "torch": Format(".pt2", program=True),
}
