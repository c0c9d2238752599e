"""Masks of ``torch.nn.utils.prune`` on a network, as all who run one have to know them."""

from __future__ import annotations

from torch import nn


def is_masked(module: nn.Module) -> bool:
    """True while a mask of ours is attached to this very module."""
    return hasattr(module, "weight_mask")


def detach_masked_weights(model: nn.Module) -> None:
    """Let masked weights forget how they came about in the last forward pass, which the next one makes anew.

    torch.nn.utils.prune keeps ``weight_orig * weight_mask`` as an attribute, and with it a part of the last step's autograd graph; a CUDA
    graph can't be captured while that is alive.
    """
    for module in model.modules():
        if is_masked(module):
            module.weight = module.weight.detach()  # type: ignore[operator]
