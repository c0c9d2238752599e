"""Weight masks, by ``torch.nn.utils.prune``: per layer or over the whole network, at once or gradually."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
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
    rising = torch.from_numpy(np.sort(flat.numpy())) if flat.device.type == "cpu" else flat.sort().values
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


def mask_layers(model: VGG, plan: Plan, scores: Scores | None = None) -> None:
    """Mask the least important ``round(value · numel)`` weights of each layer that ``plan`` names.

    The masks stay through training (``weight_orig`` and ``weight_mask``) until :func:`remove_masks`.
    Raises :class:`BadInput` for unknown layers and for values that would zero a whole layer.
    """
    layers = _maskable_layers(model)
    for name, zeros in resolve_sparsity(plan, model.spec).items():
        LeastImportant.apply(layers[name], "weight", zeros, importance_scores=scores and scores[name])  # type: ignore[no-untyped-call]


def mask_global(model: VGG, sparsity: float, scores: Scores | None = None) -> None:
    """Mask the least important ``round(sparsity · numel)`` weights of all convs and linears but the last, ranked together.

    Raises :class:`BadInput` for a sparsity outside [0, 1), :class:`WorkFailed` where a whole layer would be zero, and so
    the network dead.
    """
    Plan.uniform(sparsity, (), "sparsity")
    layers = _maskable_layers(model)
    prune.global_unstructured(
        [(layer, "weight") for layer in layers.values()],
        pruning_method=LeastImportant,
        importance_scores=scores and {(layers[name], "weight"): score for name, score in scores.items()},
        amount=float(sparsity),
    )
    _refuse_dead(model, sparsity)


def _refuse_dead(model: VGG, sparsity: float) -> None:
    for name, layer in prunable_layers(model):
        if not layer.weight.any():
            raise WorkFailed(f"sparsity {sparsity:g}: every weight of {name} would be zero; give a smaller one")


def taylor_scores(model: VGG) -> dict[str, torch.Tensor]:
    """|weight · gradient| of every weight that can be masked, from the gradients in the parameters: the first-order change of the loss where
    it becomes zero. Source: Molchanov et al. 2019, equation 8, for single weights."""
    scores = {}
    for name, layer in prunable_layers(model):
        assert layer.weight.grad is not None, "accumulate_gradients comes before"
        scores[name] = (layer.weight.detach() * layer.weight.grad).abs()
    return scores


@dataclass(frozen=True)
class Gradual:
    """Masks that grow while the model trains, by the cubic schedule of Zhu & Gupta 2017: after a share t of the ramp, 1 − (1 − t)³ of the
    final zeros. What it does follows from the step alone. The weights are ranked anew each time; one that was masked can come back."""

    plan: Plan | None = None
    """Per layer; or"""
    sparsity: float | None = None
    """over all layers together."""
    ramp: float = 0.6
    """Fraction of the steps after which the masks are final."""
    every: int = 20
    """Steps between rankings."""

    @property
    def key(self) -> str:
        """What decides its outcome."""
        values = dict(self.plan.values) if self.plan else {}
        return f"gradual {values} {self.sparsity} {self.ramp} {self.every}"

    def begin(self, model: VGG) -> None:
        """Attach masks that mask nothing yet. Raises as :func:`mask_layers` does."""
        if self.plan is not None:
            resolve_sparsity(self.plan, model.spec)
        for name, layer in _maskable_layers(model).items():
            if self.plan is None or name in self.plan.values:
                prune.identity(layer, "weight")

    def settled(self, step: int, total: int) -> bool:
        """Whether the masks are final after ``step`` steps: only then can an epoch be the best."""
        return step > int(self.ramp * total)

    @torch.no_grad()
    def before_step(self, model: nn.Module, step: int, total: int) -> None:
        """Rank and mask, where the schedule has it."""
        assert isinstance(model, VGG)
        end = int(self.ramp * total)
        if step > end or (step < end and step % self.every):
            return
        share = 1 - (1 - step / end) ** 3 if end else 1.0
        layers = {name: layer for name, layer in prunable_layers(model) if is_masked(layer)}
        weights = {name: layer.get_parameter("weight_orig") for name, layer in layers.items()}
        if self.plan is not None:
            for name, zeros in resolve_sparsity(self.plan, model.spec).items():
                (mask,) = magnitude_masks(weights[name].abs(), [round(share * zeros)])
                layers[name].get_buffer("weight_mask").copy_(mask)
            return
        assert self.sparsity is not None
        every = torch.cat([weight.flatten() for weight in weights.values()])
        (mask,) = magnitude_masks(every.abs(), [round(share * self.sparsity * len(every))])
        for layer, part in zip(layers.values(), mask.split([w.numel() for w in weights.values()]), strict=True):
            layer.get_buffer("weight_mask").copy_(part.view(layer.get_buffer("weight_mask").shape))
        if step == end:
            for layer in layers.values():
                layer.weight = layer.get_parameter("weight_orig") * layer.get_buffer("weight_mask")
            _refuse_dead(model, self.sparsity)


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


def detach_masked_weights(model: nn.Module) -> None:
    """Let masked weights forget how they came about in the last forward pass, which the next one makes anew.

    torch.nn.utils.prune keeps ``weight_orig * weight_mask`` as an attribute, and with it a part of the last step's autograd graph; a CUDA
    graph can't be captured while that is alive.
    """
    for module in model.modules():
        if is_masked(module):
            module.weight = module.weight.detach()  # type: ignore[operator]


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
