"""Recalibration recomputes batch norm's running statistics on training images after pruning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import nn

from tp_vgg.data.split import Normalisation, Split, stratified
from tp_vgg.evaluation.evaluate import EVALUATION_BLOCK
from tp_vgg.machine.console import progress_bar
from tp_vgg.machine.precision import exact_fp32
from tp_vgg.pruning.repairs import CALIBRATION_IMAGES


def recalibrate(
    model: nn.Module,
    split: Split,
    normalisation: Normalisation,
    seed: int = 0,
    images: int = CALIBRATION_IMAGES,
    label: str = "",
) -> None:
    """Recompute the running statistics of every batch norm in ``model``, in place.

    The new statistics are the mean over a stratified draw of ``images`` images from ``split``.
    No weight changes. ``label`` names the progress bar; without a label there is no bar.

    Pruning changes the inputs of each batch norm, so the statistics of the unpruned network no
    longer fit. Source: ``update_bn`` of torch's ``swa_utils`` (Izmailov et al. 2018, section 3.2).
    """
    sample = calibration_sample(split, seed, images)
    with progress_bar(label, unit="img", total=len(sample), leave=False) as bar:

        def inputs() -> Iterator[torch.Tensor]:
            for block, labels in sample.blocks(EVALUATION_BLOCK):
                yield normalisation(block)
                bar.update(len(labels))

        renew_statistics(model, inputs())


def calibration_sample(split: Split, seed: int = 0, images: int = CALIBRATION_IMAGES) -> Split:
    """Return the images over which :func:`recalibrate` computes the statistics.

    They are a stratified draw from ``split``, with the labels' proportions. Their order is random,
    because a batch of one class would have that class's statistics.
    """
    drawn = stratified(split.labels.cpu().numpy(), images, seed)
    return split.take(np.random.default_rng(seed).permutation(drawn))


def renew_statistics(network: nn.Module, inputs: Iterable[torch.Tensor]) -> None:
    """Set the running statistics of every batch norm in ``network`` to the mean over ``inputs``.

    ``inputs``: batches in the form that ``network`` takes; each batch has the same weight.
    """
    with torch.no_grad(), exact_fp32():
        torch.optim.swa_utils.update_bn(inputs, network)
