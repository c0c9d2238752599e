"""Weight masks, by ``torch.nn.utils.prune``: L1 magnitude per layer or over the whole network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn
from torch.nn.utils import prune

from tp_vgg.errors import BadInput, WorkFailed
from tp_vgg.model import VGG, prunable_layers
from tp_vgg.ratios import Plan, resolve_sparsity


def prune_unstructured(
    model: VGG, sparsity: float | Plan | Mapping[str, float], *, scope: Literal["layer", "global"] = "layer"
) -> None:
    """Set the smallest weights of ``model`` to exact zeros, in place, without fine-tuning.

    One sparsity, for every conv and hidden linear or (``scope="global"``) over all of them together, or one a layer.
    Raises :class:`BadInput` for unknown layers, values outside [0, 1), and plans that would zero a layer.
    """
    if scope == "global":
        if not isinstance(sparsity, int | float):
            raise BadInput("scope: global ranks all layers together and takes one number")
        mask_global(model, sparsity)
    elif isinstance(sparsity, int | float):
        mask_layers(model, Plan.uniform(sparsity, tuple(model.spec.prunable), "sparsity"))
    else:
        mask_layers(model, sparsity if isinstance(sparsity, Plan) else Plan.of(sparsity, "sparsity"))
    remove_masks(model)


def mask_layers(model: VGG, plan: Plan) -> None:
    """Mask the smallest ``round(value · numel)`` weights (by magnitude) of each layer that ``plan`` names.

    The masks stay through training (``weight_orig`` and ``weight_mask``) until :func:`remove_masks`.
    Raises :class:`BadInput` for unknown layers and for values that would zero a whole layer.
    """
    layers = _maskable_layers(model)
    for name, zeros in resolve_sparsity(plan, model.spec).items():
        prune.l1_unstructured(layers[name], "weight", amount=zeros)


def mask_global(model: VGG, sparsity: float) -> None:
    """Mask the smallest ``round(sparsity · numel)`` weights of all convs and linears but the last, ranked together.

    Raises :class:`BadInput` for a sparsity outside [0, 1), :class:`WorkFailed` where a whole layer would be zero, and so
    the network dead.
    """
    Plan.uniform(sparsity, (), "sparsity")
    layers = _maskable_layers(model)
    prune.global_unstructured(
        [(layer, "weight") for layer in layers.values()], pruning_method=prune.L1Unstructured, amount=float(sparsity)
    )
    for name, layer in layers.items():
        if not layer.weight.any():
            raise WorkFailed(f"sparsity {sparsity:g}: every weight of {name} would be zero; give a smaller one")


def _maskable_layers(model: VGG) -> dict[str, nn.Conv2d | nn.Linear]:
    """The prunable layers, their weights in contiguous memory: torch's pruning flattens by a view, which channels_last has not."""
    layers = dict(prunable_layers(model))
    for layer in layers.values():
        if not is_masked(layer):
            layer.weight.data = layer.weight.data.contiguous()
    return layers


def remove_masks(model: nn.Module) -> None:
    """Make the masks permanent: exact zeros in plain weights."""
    for module in model.modules():
        if is_masked(module):
            prune.remove(module, "weight")
            module.get_parameter("weight").data.add_(0.0)  # a masked negative weight is −0.0


def is_masked(module: nn.Module) -> bool:
    """True while a mask of ours is attached to this very module."""
    return hasattr(module, "weight_mask")


@torch.no_grad()
def layer_sparsity(model: VGG) -> Mapping[str, float]:
    """Fraction of exact zeros in the weight of every conv and linear."""
    weights = {row.name: model.get_submodule(row.name).get_parameter("weight") for row in model.spec.rows}
    return {name: 1 - int(weight.count_nonzero()) / weight.numel() for name, weight in weights.items()}


@torch.no_grad()
def count_nonzero(model: nn.Module) -> int:
    """Parameters that are not exactly zero."""
    return sum(int(parameter.count_nonzero()) for parameter in model.parameters())
