"""From a spec to an ``nn.Module`` with torchvision's names, and the two exact folds (head, batch norm)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from tp_vgg.errors import WorkFailed
from tp_vgg.spec import CIFAR10_MEAN, CIFAR10_STD, VGGSpec

Meta = dict[str, Any]
"""What travels with the weights, as plain types; ``mean`` and ``std`` are the normalisation of [0, 1] pixels (CIFAR-10's unless said otherwise)."""


class VGG(nn.Module):
    """torchvision's VGG with the widths, the head and the pool of a spec.

    Input: normalised float images [N, 3, S, S]; output: logits [N, num_classes]. ``spec`` says what it is,
    ``meta`` what it was trained for, ``kept`` which channels of the dense baseline are left (empty: all).
    """

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


def prunable_layers(model: VGG) -> Iterator[tuple[str, nn.Conv2d | nn.Linear]]:
    """(name, layer) of every conv and hidden linear, in order."""
    for name in model.spec.prunable:
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        yield name, layer


def activation_after(model: VGG, name: str) -> nn.Module:
    """The ReLU that follows a prunable layer (behind batch norm, where there is one)."""
    parent, _, index = name.rpartition(".")
    offset = 2 if model.spec.batch_norm and parent == "features" else 1
    return model.get_submodule(f"{parent}.{int(index) + offset}")


def realised_spec(model: VGG) -> VGGSpec:
    """The spec read off the modules themselves; equals ``model.spec`` unless something was skipped."""
    widths = {name: layer.weight.shape[0] for name, layer in prunable_layers(model)}
    return model.spec.with_widths(widths)


def can_fold_head(spec: VGGSpec) -> bool:
    """True where torchvision's 7×7 pool only repeats a 1×1 map."""
    return spec.pool == 7 and spec.image_size // 32 == 1


def fold_head_columns(weight: torch.Tensor) -> torch.Tensor:
    """``[out, C·49]`` → ``[out, C]``: each channel's 49 columns summed (in fp64, returned in the input's dtype).

    Exact up to float reassociation where the 7×7 adaptive pool repeats a 1×1 map 49 times.
    """
    out, columns = weight.shape
    return weight.view(out, columns // 49, 49).sum(-1, dtype=torch.float64).to(weight.dtype)


def fold_batch_norm(model: VGG) -> VGG:
    """A copy without batch norm whose convs do its work; the same logits in eval mode.

    The copy is a plain VGG (``spec.batch_norm`` false, torchvision's plain names). Source: Jacob et al.
    2018, section 3.2, by ``torch.nn.utils.fusion``.
    """
    plain = replace(model.spec, batch_norm=False)
    if not model.spec.batch_norm:
        return _rebuilt(model, plain, model.state_dict())
    state = {name: value for name, value in model.state_dict().items() if name.startswith("classifier")}
    for old, new in zip(model.spec.conv_names, plain.conv_names, strict=True):
        conv = model.get_submodule(old)
        bn = model.get_submodule(f"features.{int(old.rpartition('.')[2]) + 1}")
        assert isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d)
        assert bn.running_mean is not None and bn.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
        )
        state[f"{new}.weight"], state[f"{new}.bias"] = weight, bias
    folded = _rebuilt(model, plain, state)
    moved = dict(zip(model.spec.conv_names, plain.conv_names, strict=True))
    folded.kept = {moved.get(name, name): indices for name, indices in model.kept.items()}
    if "dense_widths" in model.meta:
        folded.meta["dense_widths"] = {
            moved.get(name, name): width for name, width in model.meta["dense_widths"].items()
        }
    return folded


def _rebuilt(model: VGG, spec: VGGSpec, state: dict[str, torch.Tensor]) -> VGG:
    """A network of another spec that holds copies of ``state``, with the mode, place and notes of ``model``."""
    new = empty(spec)
    new.load_state_dict({name: value.detach().clone() for name, value in state.items()}, assign=True)
    for parameter in new.parameters():
        parameter.requires_grad_(True)
    new.meta, new.kept = copy.deepcopy(model.meta), copy.deepcopy(model.kept)
    return new.train(model.training)


def empty(spec: VGGSpec) -> VGG:
    """A network without storage (meta device), to be filled by ``load_state_dict(..., assign=True)``."""
    with torch.device("meta"):
        return VGG(spec)


def imagenet_weights(arch: str) -> tuple[dict[str, torch.Tensor], Meta]:
    """torchvision's ImageNet weights of ``arch`` and the normalisation that they were trained with.

    Downloads through torchvision; raises :class:`WorkFailed` in one line when that fails.
    """
    from torchvision import models

    weights = models.get_model_weights(arch)["IMAGENET1K_V1"]
    try:
        state = weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise WorkFailed(
            f"--weights imagenet: download from torchvision failed ({reason}); give a file with --weights PATH, or none"
        ) from None
    transforms = weights.transforms()
    return state, {"mean": list(transforms.mean), "std": list(transforms.std), "source": f"torchvision {weights}"}
