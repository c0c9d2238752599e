"""How long a training will take on this machine, told before it begins."""

from __future__ import annotations

import copy
import time

import torch
from torch import nn
from torch.nn import functional as F

from tp_vgg.data import DataSet, Normalisation
from tp_vgg.device import autocast
from tp_vgg.recipe import Recipe


def estimate_seconds(
    model: nn.Module, data: DataSet, recipe: Recipe, normalisation: Normalisation, precision: torch.dtype
) -> float:
    """How long :func:`tp_vgg.train.fit` will take here, from two small batches on a copy of the model."""
    device = data.train.labels.device
    probe = copy.deepcopy(model).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    count = min(32, len(data.train))
    inputs, labels = normalisation(data.train.images[:count]), data.train.labels[:count]
    best = float("inf")
    for _ in range(2):
        start = time.perf_counter()
        with autocast(device, precision):
            F.cross_entropy(probe(inputs).float(), labels).backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best / count * len(data.train) * recipe.epochs
