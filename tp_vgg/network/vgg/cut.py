"""A VGG cut in two at one layer."""

from __future__ import annotations

from torch import nn

from tp_vgg.network.vgg.model import VGG


def around(model: VGG, name: str, *, own: bool) -> tuple[nn.Sequential, nn.Sequential]:
    """The network before and behind layer ``name``, which with ``own`` is the first of those behind; else the cut is after its ReLU."""
    modules = [*model.features, model.avgpool, nn.Flatten(), *_classifier(model)]
    cut = next(i for i, module in enumerate(modules) if module is model.get_submodule(name))
    if not own:
        cut += 1 + next(i for i, module in enumerate(modules[cut:]) if isinstance(module, nn.ReLU))
    return nn.Sequential(*modules[:cut]), nn.Sequential(*modules[cut:])


def _classifier(model: VGG) -> list[nn.Module]:
    return (
        list(model.classifier)
        if isinstance(model.classifier, nn.Sequential)
        else [model.classifier]
    )
