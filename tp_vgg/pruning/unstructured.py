"""Weight masks, by ``torch.nn.utils.prune``: per layer or over the whole network, at once or gradually."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn.utils import prune

from tp_vgg.errors import BadInput, WorkFailed
from tp_vgg.network.masks import is_masked
from tp_vgg.network.network import Network, prunable_layers
from tp_vgg.pruning.ratios import Plan, resolve_sparsity


def prune_unstructured(
    model: Network,
    sparsity: float | Plan | Mapping[str, float],
    *,
    scope: Literal["layer", "global"] = "layer",
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
        mask_layers(
            model, sparsity if isinstance(sparsity, Plan) else Plan.of(sparsity, "sparsity")
        )
    remove_masks(model)


Scores = Mapping[str, torch.Tensor]
"""Importance of every weight, by layer; the magnitude where there are none."""


class LeastImportant(prune.L1Unstructured):
    """torch's method, but for equal magnitudes: torch leaves these to the device; here the first in memory are zeroed first."""

    def compute_mask(self, t: torch.Tensor, default_mask: torch.Tensor) -> torch.Tensor:
        zeros = self.amount if isinstance(self.amount, int) else round(self.amount * t.numel())
        (kept,) = magnitude_masks(t.detach().abs(), [zeros])
        return default_mask * kept


def magnitude_masks(size: torch.Tensor, zeros: Sequence[int]) -> Iterator[torch.Tensor]:
    """Masks (bool) that leave out each count of the smallest of ``size``; of equal ones, the first in memory. One sort serves them all."""
    flat = size.flatten()
    # NumPy sorts on the CPU ten times as fast as torch, which sorts the indices too.
    rising = (
        torch.from_numpy(np.sort(flat.numpy())) if flat.device.type == "cpu" else flat.sort().values
    )
    for count in zeros:
        if not count:
            yield torch.ones_like(size, dtype=torch.bool)
            continue
        limit = rising[count - 1]
        kept = flat > limit
        spare = len(flat) - count - int(kept.sum())
        if spare:
            kept[(flat == limit).nonzero().flatten()[-spare:]] = True
        yield kept.view(size.shape)


def mask_layers(model: Network, plan: Plan, scores: Scores | None = None) -> None:
    """Mask the least important ``round(value · numel)`` weights of each layer that ``plan`` names.

    The masks stay through training (``weight_orig`` and ``weight_mask``) until :func:`remove_masks`.
    Raises :class:`BadInput` for unknown layers and for values that would zero a whole layer.
    """
    layers = maskable_layers(model)
    for name, zeros in resolve_sparsity(plan, model.spec).items():
        LeastImportant.apply(
            layers[name], "weight", zeros, importance_scores=scores and scores[name]
        )  # type: ignore[no-untyped-call]


def mask_global(model: Network, sparsity: float, scores: Scores | None = None) -> None:
    """Mask the least important ``round(sparsity · numel)`` weights of all convs and linears but the last, ranked together.

    Raises :class:`BadInput` for a sparsity outside [0, 1), :class:`WorkFailed` where a whole layer would be zero, and so
    the network dead.
    """
    Plan.uniform(sparsity, (), "sparsity")
    layers = maskable_layers(model)
    prune.global_unstructured(
        [(layer, "weight") for layer in layers.values()],
        pruning_method=LeastImportant,
        importance_scores=scores
        and {(layers[name], "weight"): score for name, score in scores.items()},
        amount=float(sparsity),
    )
    refuse_dead(model, sparsity)


def refuse_dead(model: Network, sparsity: float) -> None:
    for name, layer in prunable_layers(model):
        if not layer.weight.any():
            raise WorkFailed(
                f"sparsity {sparsity:g}: every weight of {name} would be zero; give a smaller one"
            )


def maskable_layers(model: Network) -> dict[str, nn.Conv2d | nn.Linear]:
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
