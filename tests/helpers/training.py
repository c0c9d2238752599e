"""Training as the tests want it: without a bar, on inputs normalised as the data says."""

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
    """:func:`tp_vgg.training.trainer.fit`; what of ``options`` is none of its own belongs to the setup."""
    where = {name: options.pop(name) for name in WHERE if name in options}
    return trainer.fit(
        model, TrainingSetup(data, recipe, data.normalisation, **options), quiet=True, **where
    )
