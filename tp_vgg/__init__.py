"""tp_vgg prunes VGG networks, such as VGG-11 on CIFAR-10, and measures the gain.

Public names are loaded when they are first used: ``import tp_vgg`` alone does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tp_vgg.data.datasets import load_data
    from tp_vgg.data.split import Split
    from tp_vgg.errors import BadInput, WorkFailed
    from tp_vgg.evaluation.evaluate import accuracy
    from tp_vgg.latency.benchmark import measure_latency
    from tp_vgg.network.checkpoint import load, save
    from tp_vgg.network.from_torchvision import from_torchvision
    from tp_vgg.network.held import held
    from tp_vgg.network.vgg.model import build
    from tp_vgg.network.vgg.spec import VGGSpec
    from tp_vgg.planning.make_plan import make_plan
    from tp_vgg.pruning.ratios import read_ratios
    from tp_vgg.pruning.repair import repair
    from tp_vgg.pruning.structured import prune_structured
    from tp_vgg.pruning.unstructured import prune_unstructured
    from tp_vgg.sensitivity.sweep import sweep
    from tp_vgg.training.finetune import finetune

_MODULE_OF = {
    "BadInput": "tp_vgg.errors",
    "Split": "tp_vgg.data.split",
    "VGGSpec": "tp_vgg.network.vgg.spec",
    "WorkFailed": "tp_vgg.errors",
    "accuracy": "tp_vgg.evaluation.evaluate",
    "build": "tp_vgg.network.vgg.model",
    "finetune": "tp_vgg.training.finetune",
    "from_torchvision": "tp_vgg.network.from_torchvision",
    "held": "tp_vgg.network.held",
    "load": "tp_vgg.network.checkpoint",
    "load_data": "tp_vgg.data.datasets",
    "make_plan": "tp_vgg.planning.make_plan",
    "measure_latency": "tp_vgg.latency.benchmark",
    "prune_structured": "tp_vgg.pruning.structured",
    "prune_unstructured": "tp_vgg.pruning.unstructured",
    "read_ratios": "tp_vgg.pruning.ratios",
    "repair": "tp_vgg.pruning.repair",
    "save": "tp_vgg.network.checkpoint",
    "sweep": "tp_vgg.sensitivity.sweep",
}

__all__ = [
    "BadInput",
    "Split",
    "VGGSpec",
    "WorkFailed",
    "accuracy",
    "build",
    "finetune",
    "from_torchvision",
    "held",
    "load",
    "load_data",
    "make_plan",
    "measure_latency",
    "prune_structured",
    "prune_unstructured",
    "read_ratios",
    "repair",
    "save",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'tp_vgg' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
