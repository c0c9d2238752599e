"""What a training is, beside the network that is trained."""

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
    """Passed whole to whoever trains, times or estimates a training."""

    data: DataSet
    recipe: Recipe
    normalisation: Normalisation
    """Of the network's inputs."""
    precision: torch.dtype = torch.float32
    """Of the forward pass, by autocast."""
    teacher: nn.Module | None = None
    """The dense network whose outputs are learnt too, where the recipe gives them a weight."""
    masking: Masking | None = None
    """What changes the network's masks on the way."""
    ranks: Ranks = ALONE
    """The processes that share each batch, one slice each; gradients are averaged (DistributedDataParallel), batch norm sees its own slice."""

    @property
    def device(self) -> torch.device:
        return self.data.train.labels.device

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.data.train) // self.recipe.batch_size)
