"""The duration of a training on this machine is estimated from a few steps before it begins."""

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
"""Images in the batch that is timed on a CPU, where a whole batch takes a second."""
CUDA_STEPS = 12, 24
"""Training steps on a GPU: untimed ones first, which capture a CUDA graph, then timed ones."""


def estimate_seconds(model: nn.Module, setup: TrainingSetup) -> float:
    """Return the estimated seconds that :func:`tp_vgg.training.trainer.fit` will take here.

    A few steps are timed on a copy of the model. On a CPU they are forward and backward passes on a
    small batch, scaled up by the number of images. On a GPU they are steps of the training itself,
    by all ranks together, because a GPU's time is not proportional to the number of images.
    """
    probe, epochs = copy.deepcopy(model), setup.recipe.epochs
    if setup.device.type == "cuda":
        return _step_seconds(probe, setup) * epochs * setup.steps_per_epoch
    return _image_seconds(probe, setup) * len(setup.data.train) * epochs / setup.ranks.size


def _step_seconds(probe: nn.Module, setup: TrainingSetup) -> float:
    untimed, timed = CUDA_STEPS
    # Each epoch has at least one step, so as many epochs as steps are always enough.
    long_enough = replace(setup, recipe=replace(setup.recipe, epochs=untimed + timed))
    step, device = steps_alone(probe, long_enough), setup.device
    with exact_fp32():
        for _ in range(untimed):
            step()
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        for _ in range(timed):
            step()
        torch.cuda.synchronize(device)
    seconds = (time.perf_counter() - start) / timed
    del step
    release_memory()  # the training needs the memory that the CUDA graph holds
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
