"""Training minimises the loss that is defined here."""

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
    """Return the mean loss (a scalar) of a batch with ``logits`` [N, classes] (fp32).

    It is the cross-entropy with label smoothing against ``labels`` [N]. If there is a ``teacher``
    and the recipe's ``distill_weight`` is w > 0, the loss is (1 − w) · cross-entropy + w · T² · KL.
    KL is the divergence KL(teacher ‖ network) of the outputs on the same ``inputs``, softened by
    the temperature T. Source: Hinton et al. 2015.
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
