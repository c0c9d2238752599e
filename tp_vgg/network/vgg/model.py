"""A VGG spec becomes an ``nn.Module`` with torchvision's module names."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from tp_vgg.data.split import CIFAR10_MEAN, CIFAR10_STD
from tp_vgg.errors import BadInput
from tp_vgg.files.checks import type_name
from tp_vgg.network.network import Meta, Network
from tp_vgg.network.vgg.spec import VGGSpec


class VGG(Network):
    """A VGG has torchvision's layout, with the widths, the head and the pool of its spec.

    It maps normalised float images [N, 3, S, S] to logits [N, num_classes]. ``meta`` starts with
    CIFAR-10's normalisation.
    """

    spec: VGGSpec

    def __init__(self, spec: VGGSpec) -> None:
        super().__init__()
        self.spec = spec
        self.meta: Meta = {"mean": list(CIFAR10_MEAN), "std": list(CIFAR10_STD)}
        self.kept: dict[str, list[int]] = {}
        features: list[nn.Module] = []
        in_width = 3
        widths = iter(spec.widths)
        for convs in spec.stages:
            for _ in range(convs):
                width = next(widths)
                features.append(nn.Conv2d(in_width, width, 3, padding=1))
                if spec.batch_norm:
                    features.append(nn.BatchNorm2d(width))
                features.append(nn.ReLU(inplace=True))
                in_width = width
            features.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d((spec.pool, spec.pool))
        in_width *= spec.pool**2
        head: list[nn.Module] = []
        for width in spec.hidden:
            head += [nn.Linear(in_width, width), nn.ReLU(inplace=True), nn.Dropout()]
            in_width = width
        last = nn.Linear(in_width, spec.num_classes)
        self.classifier = nn.Sequential(*head, last) if head else last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits [N, num_classes] of normalised float images [N, 3, S, S]."""
        logits: torch.Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits


def build(spec: VGGSpec) -> VGG:
    """Return a freshly initialised VGG of ``spec`` in training mode, on the default device.

    Raises :class:`BadInput` if ``spec`` is not a :class:`VGGSpec`.
    """
    if not isinstance(spec, VGGSpec):
        raise BadInput(
            f"spec: must be a tp_vgg.VGGSpec, got {type_name(spec)}; "
            "tp_vgg.VGGSpec.preset('vgg11_bn') is one"
        )
    model = VGG(spec)
    init_weights(model)
    return model


@torch.no_grad()
def init_weights(model: VGG) -> None:
    """Initialise the weights in place as torchvision does, with two exceptions.

    The first linear of a folded head stands for 49 equal columns, so its std is 0.01 · √49 = 0.07.
    Without batch norm, the convs use the fan-in form of He et al. 2015, because fan-out would halve
    the signal's variance wherever the width doubles.
    """
    mode: Literal["fan_in", "fan_out"] = "fan_out" if model.spec.batch_norm else "fan_in"
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # built with a bias
    for linear in linears:
        folded = linear is linears[0] and len(linears) > 1 and model.spec.pool == 1
        nn.init.normal_(linear.weight, 0, 0.07 if folded else 0.01)
        nn.init.zeros_(linear.bias)


def activation_after(model: VGG, name: str) -> nn.Module:
    """Return the ReLU that follows a prunable layer (after batch norm, if there is one)."""
    parent, _, index = name.rpartition(".")
    offset = 2 if model.spec.batch_norm and parent == "features" else 1
    return model.get_submodule(f"{parent}.{int(index) + offset}")


def empty(spec: VGGSpec) -> VGG:
    """Return a VGG without storage (meta device), for ``load_state_dict(..., assign=True)``."""
    with torch.device("meta"):
        return VGG(spec)
