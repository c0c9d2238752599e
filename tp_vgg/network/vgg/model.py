"""From a spec to an ``nn.Module`` with torchvision's names."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from tp_vgg.data.split import CIFAR10_MEAN, CIFAR10_STD
from tp_vgg.network.network import Meta, Network
from tp_vgg.network.vgg.spec import VGGSpec


class VGG(Network):
    """torchvision's VGG with the widths, the head and the pool of a spec.

    Its normalisation is CIFAR-10's unless ``meta`` is told otherwise.
    """

    spec: VGGSpec

    def __init__(self, spec: VGGSpec) -> None:
        super().__init__()
        self.spec = spec
        self.meta: Meta = {"mean": list(CIFAR10_MEAN), "std": list(CIFAR10_STD)}
        self.kept: dict[str, list[int]] = {}
        features: list[nn.Module] = []
        before = 3
        widths = iter(spec.widths)
        for convs in spec.stages:
            for _ in range(convs):
                width = next(widths)
                features.append(nn.Conv2d(before, width, 3, padding=1))
                if spec.batch_norm:
                    features.append(nn.BatchNorm2d(width))
                features.append(nn.ReLU(inplace=True))
                before = width
            features.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d((spec.pool, spec.pool))
        before *= spec.pool**2
        head: list[nn.Module] = []
        for width in spec.hidden:
            head += [nn.Linear(before, width), nn.ReLU(inplace=True), nn.Dropout()]
            before = width
        last = nn.Linear(before, spec.num_classes)
        self.classifier = nn.Sequential(*head, last) if head else last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits


def build(spec: VGGSpec) -> VGG:
    """A freshly initialised network for ``spec``, in training mode."""
    model = VGG(spec)
    init_weights(model)
    return model


@torch.no_grad()
def init_weights(model: VGG) -> None:
    """torchvision's initialisation, with two departures that its shapes force.

    A folded ``classifier.0`` stands for 49 equal columns, so its std is 0.01 · √49. Without batch norm the
    convs take He's fan-in form: fan-out would shrink the signal by half at every widening.
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
    """The ReLU that follows a prunable layer (behind batch norm, where there is one)."""
    parent, _, index = name.rpartition(".")
    offset = 2 if model.spec.batch_norm and parent == "features" else 1
    return model.get_submodule(f"{parent}.{int(index) + offset}")


def empty(spec: VGGSpec) -> VGG:
    """A network without storage (meta device), to be filled by ``load_state_dict(..., assign=True)``."""
    with torch.device("meta"):
        return VGG(spec)
