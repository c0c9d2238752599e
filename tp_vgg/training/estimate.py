"""How long a training will take on this machine, told before it begins."""

from __future__ import annotations

import copy
import time
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from tp_vgg.machine.memory import release_memory
from tp_vgg.machine.precision import autocast, exact_fp32
from tp_vgg.training.setup import TrainingSetup
from tp_vgg.training.trainer import steps_alone

CPU_IMAGES = 32
"""Of the small batch that is timed on a CPU, where a whole one takes a second."""
CUDA_STEPS = 12, 24
"""Of the training itself, on a GPU: the first ones, which capture a graph, and those that are timed."""


def estimate_seconds(model: nn.Module, setup: TrainingSetup) -> float:
    """How long :func:`tp_vgg.training.trainer.fit` will take here, in seconds, by a few steps on a copy of the model.

    On a GPU these are steps of the training itself, of all ranks together, since what they take is not in proportion to the images.
    """
    probe, epochs = copy.deepcopy(model), setup.recipe.epochs
    if setup.device.type == "cuda":
        return _step_seconds(probe, setup) * epochs * setup.steps_per_epoch
    return _image_seconds(probe, setup) * len(setup.data.train) * epochs / setup.ranks.size


def _step_seconds(probe: nn.Module, setup: TrainingSetup) -> float:
    before, timed = CUDA_STEPS
    enough = replace(setup, recipe=replace(setup.recipe, epochs=before + timed))
    step, device = steps_alone(probe, enough), setup.device
    with exact_fp32():
        for _ in range(before):
            step()
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        for _ in range(timed):
            step()
        torch.cuda.synchronize(device)
    seconds = (time.perf_counter() - start) / timed
    del step
    release_memory()  # a graph has memory of its own, which the training needs
    return seconds


def _image_seconds(probe: nn.Module, setup: TrainingSetup) -> float:
    device, data = setup.device, setup.data
    probe.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    count = min(CPU_IMAGES, len(data.train))
    inputs, labels = setup.normalisation(data.train.images[:count]), data.train.labels[:count]
    best = float("inf")
    for _ in range(2):
        start = time.perf_counter()
        with autocast(device, setup.precision):
            F.cross_entropy(probe(inputs).float(), labels).backward()
        best = min(best, time.perf_counter() - start)
    return best / count
