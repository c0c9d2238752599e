"""This module cuts a VGG in two at one layer, or into segments that each begin with a layer."""

from __future__ import annotations

from torch import nn

from tp_vgg.network.network import Segment
from tp_vgg.network.vgg.model import VGG


def around(model: VGG, name: str, *, inclusive: bool) -> tuple[nn.Sequential, nn.Sequential]:
    """Return the modules before and those behind a cut at layer ``name``; the modules are shared.

    If ``inclusive``, the layer itself is the first module behind the cut. Otherwise the cut is
    directly behind the ReLU that follows the layer.
    """
    modules = _in_order(model)
    cut = next(i for i, module in enumerate(modules) if module is model.get_submodule(name))
    if not inclusive:
        cut += 1 + next(i for i, module in enumerate(modules[cut:]) if isinstance(module, nn.ReLU))
    return nn.Sequential(*modules[:cut]), nn.Sequential(*modules[cut:])


def segments(model: VGG) -> list[Segment]:
    """Return the network as one segment for each conv and linear layer, in order.

    The modules are shared with ``model``. One after another they compute its logits.
    """
    names = {id(module): name for name, module in model.named_modules()}
    parts: list[tuple[nn.Conv2d | nn.Linear, list[nn.Module]]] = []
    for module in _in_order(model):
        if isinstance(module, nn.Conv2d | nn.Linear):
            parts.append((module, []))
        else:
            parts[-1][1].append(module)
    return [
        Segment(
            names[id(layer)],
            layer,
            next((module for module in rest if isinstance(module, nn.BatchNorm2d)), None),
            nn.Sequential(*rest),
        )
        for layer, rest in parts
    ]


def _in_order(model: VGG) -> list[nn.Module]:
    """Return the modules through which images go, one after another."""
    return [*model.features, model.avgpool, nn.Flatten(), *_classifier(model)]


def _classifier(model: VGG) -> list[nn.Module]:
    return (
        list(model.classifier)
        if isinstance(model.classifier, nn.Sequential)
        else [model.classifier]
    )
