"""Accuracy over a split."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from tp_vgg.data import Normalisation, Split, stratified
from tp_vgg.device import autocast, exact_fp32, halved
from tp_vgg.errors import out_of_memory
from tp_vgg.records import Accuracy

BLOCK = 500
CALIBRATION = 2000
"""Images that batch norm's statistics are taken over."""


def classes_of(logits: torch.Tensor) -> torch.Tensor:
    """The predicted class of each row of ``logits`` [N, classes], int64 [N]; −1, which is never right, where one of them is not finite
    (``argmax`` takes a NaN for the largest)."""
    return torch.where(logits.isfinite().all(1), logits.argmax(1), -1)


@torch.inference_mode()
def predictions(
    model: nn.Module,
    split: Split,
    normalisation: Normalisation,
    precision: torch.dtype = torch.float32,
    label: str = "",
) -> torch.Tensor:
    """Predicted class of each image (:func:`classes_of`), int64 [N], in fixed blocks of 500 so that the numbers do not depend on memory; in halves of that
    from where memory runs out on, with a warning. ``label``: of the progress bar; none without."""
    device, size = split.labels.device, BLOCK
    was_training = model.training
    model.eval()
    found: list[torch.Tensor] = []
    normalise = normalisation.on(device)
    bar = tqdm(desc=label, total=len(split), unit="img", leave=False, disable=None if label else True)
    try:
        while (done := sum(map(len, found))) < len(split):
            try:
                with exact_fp32(), autocast(device, precision):
                    found.append(classes_of(model(normalise(split.images[done : done + size]))))
                bar.update(len(found[-1]))
                continue
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or size == 1:
                    raise
            size = halved(size)  # here, where the failed attempt is no longer held
    finally:
        bar.close()
        model.train(was_training)
    return torch.cat(found)


def accuracy(
    model: nn.Module,
    split: Split,
    normalisation: Normalisation,
    precision: torch.dtype = torch.float32,
    label: str = "",
) -> Accuracy:
    """Accuracy in eval mode with its 95 % interval."""
    return Accuracy.of(int(hits(model, split, normalisation, precision, label).sum()), len(split))


def hits(
    model: nn.Module,
    split: Split,
    normalisation: Normalisation,
    precision: torch.dtype = torch.float32,
    label: str = "",
) -> np.ndarray:
    """Which images the model gets right in eval mode, bool [N]."""
    found: np.ndarray = (predictions(model, split, normalisation, precision, label) == split.labels).cpu().numpy()
    return found


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
    inputs = [normalisation(block) for block, _ in sample.blocks(BLOCK)]
    with tqdm(inputs, label, unit="block", leave=False, disable=None if label else True) as bar:
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
