"""These functions handle the masks that ``torch.nn.utils.prune`` attaches to a network."""

from __future__ import annotations

from torch import nn


def is_masked(module: nn.Module) -> bool:
    """Return True if a weight mask is attached to ``module`` itself, children not counted."""
    return hasattr(module, "weight_mask")


def detach_masked_weights(model: nn.Module) -> None:
    """Detach masked weights from the autograd graph of the last forward pass.

    ``torch.nn.utils.prune`` keeps ``weight_orig * weight_mask`` as an attribute, and with it a part
    of the last step's autograd graph. A CUDA graph can't be captured while that is alive. The next
    forward pass computes the attribute again.
    """
    for module in model.modules():
        if is_masked(module):
            module.weight = module.weight.detach()  # type: ignore[operator]
