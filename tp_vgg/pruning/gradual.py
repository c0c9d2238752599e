"""Gradual pruning zeroes more and more weights: in one training, or before each of several."""

from __future__ import annotations

import math
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
    """A gradual schedule masks more weights as training goes on (Zhu & Gupta 2017, cubic ramp).

    After a fraction t of the ramp, 1 − (1 − t)³ of the final zeros are masked. The number of zeros
    at a step follows from the step alone. All weights are ranked by magnitude at each update, so a
    masked weight can come back. Give either ``plan`` or ``sparsity``.
    """

    plan: Plan | None = None
    """Final sparsity of each named layer, ranked layer by layer."""
    sparsity: float | None = None
    """Final sparsity of all layers together, ranked together."""
    ramp: float = 0.6
    """Fraction of the training's steps after which the masks are final."""
    every: int = 20
    """Steps from one update of the masks to the next."""

    @property
    def key(self) -> str:
        """Return the settings as one text, which becomes part of the training's key."""
        values = dict(self.plan.values) if self.plan else {}
        return f"gradual {values} {self.sparsity} {self.ramp} {self.every}"

    def begin(self, model: Network) -> None:
        """Attach masks that mask nothing yet to the layers that will be pruned.

        Raises :class:`~tp_vgg.errors.BadInput` if the plan names an unknown layer or would zero a
        whole layer.
        """
        if self.plan is not None:
            resolve_sparsity(self.plan, model.spec)
        for name, layer in maskable_layers(model).items():
            if self.plan is None or name in self.plan.values:
                prune.identity(layer, "weight")

    def settled(self, step: int, total: int) -> bool:
        """Return True if the masks are final after ``step`` of ``total`` steps.

        Earlier epochs do not count when the best epoch is chosen.
        """
        return step > int(self.ramp * total)

    @torch.no_grad()
    def before_step(self, model: nn.Module, step: int, total: int) -> None:
        """Rank the weights and update the masks, if the schedule has an update at ``step``.

        There is one every ``every`` steps and a last one at the end of the ramp. Raises
        :class:`~tp_vgg.errors.WorkFailed` if the last one of a global ranking zeroes a whole layer.
        """
        assert isinstance(model, Network)
        end = int(self.ramp * total)
        if step > end or (step < end and step % self.every):
            return
        fraction = 1 - (1 - step / end) ** 3 if end else 1.0
        layers = {name: layer for name, layer in prunable_layers(model) if is_masked(layer)}
        weights = {name: layer.get_parameter("weight_orig") for name, layer in layers.items()}
        if self.plan is not None:
            for name, zeros in resolve_sparsity(self.plan, model.spec).items():
                (mask,) = magnitude_masks(weights[name].abs(), [round(fraction * zeros)])
                layers[name].get_buffer("weight_mask").copy_(mask)
            return
        assert self.sparsity is not None
        flat = torch.cat([weight.flatten() for weight in weights.values()])
        (mask,) = magnitude_masks(flat.abs(), [round(fraction * self.sparsity * len(flat))])
        for layer, part in zip(
            layers.values(), mask.split([w.numel() for w in weights.values()]), strict=True
        ):
            layer.get_buffer("weight_mask").copy_(part.view(layer.get_buffer("weight_mask").shape))
        if step == end:
            for layer in layers.values():
                layer.weight = layer.get_parameter("weight_orig") * layer.get_buffer("weight_mask")
            refuse_dead(model, self.sparsity)


MOST_AT_ONCE = 2.5
"""Factor by which a step after the first lowers the number of kept weights, at most.

Measured with 95 % zeros, then 98 % (docs/results.md)."""


def sparsity_after(step: int, steps: int, final: float) -> float:
    """Return the sparsity after ``step`` (from 1) of ``steps`` on the way to ``final``.

    The number of kept weights falls by the same factor at each step, as in iterative magnitude
    pruning (Han et al. 2015; Renda et al. 2020), but by no more than :data:`MOST_AT_ONCE` after the
    first, which takes the rest: few weights matter until most are gone.
    """
    if step == steps:
        return final
    kept = 1 - final
    factor = min(MOST_AT_ONCE, math.pow(kept, -1 / steps))
    return min(max(1 - kept * factor ** (steps - step), 0.0), final)
