"""Accuracy over a split."""

from __future__ import annotations

import torch
from torch import nn

from tp_vgg.data import Normalisation, Split
from tp_vgg.device import autocast, exact_fp32
from tp_vgg.records import Accuracy

BLOCK = 500


@torch.inference_mode()
def predictions(
    model: nn.Module, split: Split, normalisation: Normalisation, precision: torch.dtype = torch.float32
) -> torch.Tensor:
    """Predicted class of each image, int64 [N], in fixed blocks of 500 so that the numbers do not depend on memory."""
    device = split.labels.device
    was_training = model.training
    model.eval()
    try:
        with exact_fp32(), autocast(device, precision):
            found = [model(normalisation(images)).argmax(1) for images, _ in split.blocks(BLOCK)]
    finally:
        model.train(was_training)
    return torch.cat(found)


def accuracy(
    model: nn.Module, split: Split, normalisation: Normalisation, precision: torch.dtype = torch.float32
) -> Accuracy:
    """Accuracy in eval mode with its 95 % interval."""
    hits = predictions(model, split, normalisation, precision) == split.labels
    return Accuracy.of(int(hits.sum()), len(split))
