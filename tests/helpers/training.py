"""Training for tests: without a progress bar, with the normalisation of the data."""

from __future__ import annotations

from typing import Any

import torch

from tp_vgg.data.datasets import DataSet
from tp_vgg.training import trainer
from tp_vgg.training.history import Epoch
from tp_vgg.training.recipe import Recipe
from tp_vgg.training.setup import TrainingSetup

WHERE = ("partial", "label", "epoch_done")


def fit(model: torch.nn.Module, data: DataSet, recipe: Recipe, **options: Any) -> list[Epoch]:
    """Call :func:`tp_vgg.training.trainer.fit`; its other ``options`` go to the setup."""
    where = {name: options.pop(name) for name in WHERE if name in options}
    return trainer.fit(
        model, TrainingSetup(data, recipe, data.normalisation, **options), quiet=True, **where
    )
