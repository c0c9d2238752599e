"""A pruned network must give the logits of the unpruned one with the removed channels zeroed.

The equivalence check compares the two in fp64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tp_vgg.network.families import activation_after, empty_network
from tp_vgg.network.network import Network

EQUIVALENCE_IMAGES = 16
"""Largest number of images that the equivalence check compares."""
EQUIVALENCE_TOLERANCE = 1e-9
"""Largest difference of two logits, relative to the largest logit, at which the check holds."""


@dataclass(frozen=True)
class EquivalenceCheck:
    """An equivalence check says how far the pruned network's logits are from the unpruned one's.

    The removed channels of the unpruned network are zeroed after their ReLU.
    """

    images: int
    """Number of images compared."""
    difference: float
    """Largest absolute difference of two logits in fp64, max |Δ logit|."""
    scale: float
    """Largest absolute logit of the unpruned network in fp64, max |logit|."""

    def __repr__(self) -> str:
        return (
            f"<EquivalenceCheck: {'holds' if self.holds else 'fails'}, logits up to "
            f"{self.scale:.3g} differ by {self.difference:.1g} over {self.images} images>"
        )

    @property
    def holds(self) -> bool:
        """Return True if the difference is at most 1e-9 of the scale."""
        return self.difference <= EQUIVALENCE_TOLERANCE * self.scale  # false for NaN


def double_copy(model: Network) -> Network:
    """Return an fp64 copy of ``model`` on the CPU, in eval mode.

    The weights are copied once, straight into fp64.
    """
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
    """Compare the logits of the pruned network ``after`` with those of the unpruned ``before``.

    Both are fp64 networks on the CPU (:func:`double_copy`). ``kept`` lists, for each pruned layer,
    the channels of ``before`` that are left; its other channels are zeroed after their ReLU.
    ``images``: normalised floats [N, 3, S, S], of which the first 16 are used.
    """
    sample = images[:EQUIVALENCE_IMAGES].detach().to("cpu", torch.float64)
    hooks = [
        activation_after(before, name).register_forward_hook(_zero_except(indices))
        for name, indices in kept.items()
    ]
    try:
        with torch.inference_mode():
            expected, actual = before(sample), after(sample)
    finally:
        for hook in hooks:
            hook.remove()
    return EquivalenceCheck(
        len(sample), float((expected - actual).abs().max()), float(expected.abs().max())
    )


def _zero_except(indices: list[int]) -> Callable[[nn.Module, Any, torch.Tensor], torch.Tensor]:
    def hook(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        keep = output.new_zeros(output.shape[1])
        keep[indices] = 1
        return output * keep.view(1, -1, *[1] * (output.ndim - 2))

    return hook
