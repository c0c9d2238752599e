"""These functions count zero and non-zero weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from tp_vgg.network.network import Network


@torch.no_grad()
def layer_sparsity(model: Network) -> Mapping[str, float]:
    """Return the fraction of exact zeros in the weight of each conv and linear, by layer name."""
    weights = {
        row.name: model.get_submodule(row.name).get_parameter("weight") for row in model.spec.rows
    }
    return {
        name: 1 - int(weight.count_nonzero()) / weight.numel() for name, weight in weights.items()
    }


@torch.no_grad()
def count_nonzero(model: nn.Module) -> int:
    """Count the elements of all parameters, biases and batch norm included, that are not zero."""
    return sum(int(parameter.count_nonzero()) for parameter in model.parameters())
