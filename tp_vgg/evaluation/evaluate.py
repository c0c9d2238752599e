"""Accuracy over a split."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from tp_vgg.data.split import Normalisation, Split
from tp_vgg.errors import out_of_memory
from tp_vgg.evaluation.accuracy import Accuracy
from tp_vgg.machine.console import progress_bar
from tp_vgg.machine.memory import halved
from tp_vgg.machine.precision import autocast, exact_fp32

EVALUATION_BLOCK = 500


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
    device, size = split.labels.device, EVALUATION_BLOCK
    was_training = model.training
    model.eval()
    found: list[torch.Tensor] = []
    normalise = normalisation.on(device)
    bar = progress_bar(label, unit="img", total=len(split), leave=False)
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
    found: np.ndarray = (
        (predictions(model, split, normalisation, precision, label) == split.labels).cpu().numpy()
    )
    return found
