"""Batch norm's statistics, renewed on training images after pruning."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from tp_vgg.data.split import Normalisation, Split, stratified
from tp_vgg.evaluation.evaluate import EVALUATION_BLOCK
from tp_vgg.machine.console import progress_bar
from tp_vgg.machine.precision import exact_fp32

CALIBRATION = 2000
"""Images that batch norm's statistics are taken over."""


def recalibrate(
    model: nn.Module,
    split: Split,
    normalisation: Normalisation,
    seed: int = 0,
    images: int = CALIBRATION,
    label: str = "",
) -> None:
    """Take batch norm's running statistics anew, as the mean over a stratified draw of ``images``, in place; nothing else moves. ``label``: of the
    progress bar; none without.

    Pruning changes what reaches a batch norm, which then normalises by statistics of a network that is no more. Source: ``update_bn`` of
    torch's ``swa_utils`` (Izmailov et al. 2018, section 3.2).
    """
    sample = calibration_sample(split, seed, images)
    inputs = [normalisation(block) for block, _ in sample.blocks(EVALUATION_BLOCK)]
    with progress_bar(label, inputs, unit="block", leave=False) as bar:
        renew_statistics(model, bar)


def calibration_sample(split: Split, seed: int = 0, images: int = CALIBRATION) -> Split:
    """The images over which :func:`recalibrate` takes statistics: a stratified draw in random order, since a batch of one class would have
    that class's statistics."""
    drawn = stratified(split.labels.cpu().numpy(), images, seed)
    return split.take(np.random.default_rng(seed).permutation(drawn))


def renew_statistics(network: nn.Module, inputs: Iterable[torch.Tensor]) -> None:
    """The statistics of every batch norm in ``network`` become the mean over ``inputs``, batches of what it is given."""
    with torch.no_grad(), exact_fp32():
        torch.optim.swa_utils.update_bn(inputs, network)
