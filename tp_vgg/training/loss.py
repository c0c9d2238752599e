"""What training minimises."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tp_vgg.training.recipe import Recipe


def training_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    recipe: Recipe,
    teacher: nn.Module | None,
    inputs: torch.Tensor,
) -> torch.Tensor:
    """Cross-entropy with label smoothing over ``logits`` [N, classes] (fp32); where the recipe gives a ``teacher`` weight, blended with the
    divergence from its softened outputs on the same ``inputs``, times the square of the temperature. Source: Hinton et al. 2015.
    """
    hard = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    weight, temperature = recipe.distill_weight, recipe.distill_temperature
    if teacher is None or weight == 0:
        return hard
    with torch.no_grad():
        target = (teacher(inputs).float() / temperature).log_softmax(1)
    soft = F.kl_div(
        (logits / temperature).log_softmax(1), target, reduction="batchmean", log_target=True
    )
    return (1 - weight) * hard + weight * temperature**2 * soft
