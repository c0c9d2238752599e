"""The check that a shrunk network computes what the dense one does with the removed channels zeroed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tp_vgg.network.families import activation_after, empty_network
from tp_vgg.network.network import Network

EQUIVALENCE_IMAGES = 16
EQUIVALENCE_TOLERANCE = 1e-9


@dataclass(frozen=True)
class EquivalenceCheck:
    """The pruned logits against those of the model before, with the same channels zeroed after ReLU."""

    images: int
    difference: float
    """max |Δ logit| in fp64."""
    scale: float
    """max |logit| in fp64."""

    @property
    def holds(self) -> bool:
        return self.difference <= EQUIVALENCE_TOLERANCE * self.scale  # false for NaN


def double_copy(model: Network) -> Network:
    """An fp64 copy on the CPU, in eval mode; weights are copied once, straight into fp64."""
    copy = empty_network(model.spec)
    state = {
        name: v.detach().to("cpu", torch.float64, copy=True)
        for name, v in model.state_dict().items()
    }
    copy.load_state_dict(state, assign=True)
    return copy.eval()


def check_equivalence(
    before: Network, after: Network, kept: Mapping[str, list[int]], images: torch.Tensor
) -> EquivalenceCheck:
    """Compare two fp64 networks' logits, the removed channels of ``before`` zeroed after its ReLUs."""
    sample = images[:EQUIVALENCE_IMAGES].detach().to("cpu", torch.float64)
    hooks = [
        activation_after(before, name).register_forward_hook(_zero_except(indices))
        for name, indices in kept.items()
    ]
    try:
        with torch.inference_mode():
            expected, found = before(sample), after(sample)
    finally:
        for hook in hooks:
            hook.remove()
    return EquivalenceCheck(
        len(sample), float((expected - found).abs().max()), float(expected.abs().max())
    )


def _zero_except(indices: list[int]) -> Callable[[nn.Module, Any, torch.Tensor], torch.Tensor]:
    def hook(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        keep = output.new_zeros(output.shape[1])
        keep[indices] = 1
        return output * keep.view(1, -1, *[1] * (output.ndim - 2))

    return hook
