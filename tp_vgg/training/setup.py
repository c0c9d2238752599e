"""A training is described by the network that is trained and by the setup defined here."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from tp_vgg.data.datasets import DataSet
from tp_vgg.data.split import Normalisation
from tp_vgg.machine.distributed import ALONE, Ranks
from tp_vgg.training.masking import Masking
from tp_vgg.training.recipe import Recipe


@dataclass(frozen=True)
class TrainingSetup:
    """A training setup holds all that a training needs besides the network."""

    data: DataSet
    recipe: Recipe
    normalisation: Normalisation
    """Normalisation of the network's inputs."""
    precision: torch.dtype = torch.float32
    """Data type of the forward pass, by autocast."""
    teacher: nn.Module | None = None
    """Dense network for distillation, used if the recipe's ``distill_weight`` is above 0."""
    masking: Masking | None = None
    """Schedule that changes the network's weight masks during training."""
    ranks: Ranks = ALONE
    """Processes that share each batch, one slice each.

    Gradients are averaged (DistributedDataParallel); batch norm sees its own process's slice.
    """

    @property
    def device(self) -> torch.device:
        """Return the device that holds the data, on which the training runs."""
        return self.data.train.labels.device

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of batches per epoch; the last one may be smaller."""
        return -(-len(self.data.train) // self.recipe.batch_size)
