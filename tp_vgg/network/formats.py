"""This module lists the formats that a network can be exported to, as data.

This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """An export format has a file name suffix and is either a program or a weights file."""

    suffix: str
    """Suffix of the file name, with its dot."""
    program: bool
    """True if the file computes logits by itself.

    False if it holds weights for :func:`tp_vgg.load`, equal to the model's bit for bit."""


EXPORT_FORMATS: Mapping[str, Format] = {
    "onnx": Format(".onnx", program=True),
    "safetensors": Format(".safetensors", program=False),
    "sparse": Format(".sparse", program=False),
    "torch": Format(".pt2", program=True),
}
