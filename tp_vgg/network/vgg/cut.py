"""This module cuts a VGG in two at one layer."""

from __future__ import annotations

from torch import nn

from tp_vgg.network.vgg.model import VGG


def around(model: VGG, name: str, *, inclusive: bool) -> tuple[nn.Sequential, nn.Sequential]:
    """Return the modules before and those behind a cut at layer ``name``; the modules are shared.

    If ``inclusive``, the layer itself is the first module behind the cut. Otherwise the cut is
    directly behind the ReLU that follows the layer.
    """
    modules = [*model.features, model.avgpool, nn.Flatten(), *_classifier(model)]
    cut = next(i for i, module in enumerate(modules) if module is model.get_submodule(name))
    if not inclusive:
        cut += 1 + next(i for i, module in enumerate(modules[cut:]) if isinstance(module, nn.ReLU))
    return nn.Sequential(*modules[:cut]), nn.Sequential(*modules[cut:])


def _classifier(model: VGG) -> list[nn.Module]:
    return (
        list(model.classifier)
        if isinstance(model.classifier, nn.Sequential)
        else [model.classifier]
    )
