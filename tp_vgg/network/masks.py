"""These functions handle the masks that ``torch.nn.utils.prune`` attaches to a network."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import prune


def is_masked(module: nn.Module) -> bool:
    """Return True if a weight mask is attached to ``module`` itself, children not counted."""
    return hasattr(module, "weight_mask")


def masked_tensors(module: nn.Module) -> list[str]:
    """Return the names of the tensors of ``module`` itself that have a mask, such as ``weight``."""
    return [
        hook._tensor_name
        for hook in module._forward_pre_hooks.values()
        if isinstance(hook, prune.BasePruningMethod)
    ]


def parameter_behind(module: nn.Module, name: str) -> nn.Parameter | None:
    """Return the parameter ``name`` of ``module``, or the one below its mask; None without one."""
    return module._parameters.get(f"{name}_orig", module._parameters.get(name))


def has_masks(model: nn.Module) -> bool:
    """Return True if a tensor of ``model`` or of one of its modules has a mask."""
    return any(masked_tensors(module) for module in model.modules())


def remove_masks(model: nn.Module) -> None:
    """Replace the masks of ``model`` by exact zeros in plain weights, in place."""
    for module in model.modules():
        for name in masked_tensors(module):
            prune.remove(module, name)
            module.get_parameter(name).data.add_(0.0)  # a masked negative weight is −0.0


def refresh_masked_weights(model: nn.Module) -> None:
    """Compute masked tensors anew, after what they are computed from was loaded.

    ``torch.nn.utils.prune`` does that in the next forward pass only.
    """
    with torch.no_grad():
        for module in model.modules():
            for hook in module._forward_pre_hooks.values():
                if isinstance(hook, prune.BasePruningMethod):
                    hook(module, ())


def detach_masked_weights(model: nn.Module) -> None:
    """Detach masked weights from the autograd graph of the last forward pass.

    ``torch.nn.utils.prune`` keeps ``weight_orig * weight_mask`` as an attribute, and with it a part
    of the last step's autograd graph. A CUDA graph can't be captured while that is alive. The next
    forward pass computes the attribute again.
    """
    for module in model.modules():
        if is_masked(module):
            module.weight = module.weight.detach()  # type: ignore[operator]
