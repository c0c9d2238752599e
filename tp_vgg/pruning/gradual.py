"""Masks that grow during training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import prune

from tp_vgg.network.masks import is_masked
from tp_vgg.network.network import Network, prunable_layers
from tp_vgg.pruning.ratios import Plan, resolve_sparsity
from tp_vgg.pruning.unstructured import magnitude_masks, maskable_layers, refuse_dead


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

    def begin(self, model: Network) -> None:
        """Attach masks that mask nothing yet. Raises as :func:`~tp_vgg.pruning.unstructured.mask_layers` does."""
        if self.plan is not None:
            resolve_sparsity(self.plan, model.spec)
        for name, layer in maskable_layers(model).items():
            if self.plan is None or name in self.plan.values:
                prune.identity(layer, "weight")

    def settled(self, step: int, total: int) -> bool:
        """Whether the masks are final after ``step`` steps: only then can an epoch be the best."""
        return step > int(self.ramp * total)

    @torch.no_grad()
    def before_step(self, model: nn.Module, step: int, total: int) -> None:
        """Rank and mask, where the schedule has it."""
        assert isinstance(model, Network)
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
        for layer, part in zip(
            layers.values(), mask.split([w.numel() for w in weights.values()]), strict=True
        ):
            layer.get_buffer("weight_mask").copy_(part.view(layer.get_buffer("weight_mask").shape))
        if step == end:
            for layer in layers.values():
                layer.weight = layer.get_parameter("weight_orig") * layer.get_buffer("weight_mask")
            refuse_dead(model, self.sparsity)
