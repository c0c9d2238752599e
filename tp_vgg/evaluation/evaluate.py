"""This module measures which images of a split a network classifies correctly."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from tp_vgg.data.split import Normalisation, Split
from tp_vgg.errors import BadInput, out_of_memory
from tp_vgg.evaluation.accuracy import Accuracy
from tp_vgg.evaluation.images import Images, Labelled
from tp_vgg.files.checks import text, type_name
from tp_vgg.machine.console import progress_bar
from tp_vgg.machine.memory import halved
from tp_vgg.machine.precision import autocast, exact_fp32
from tp_vgg.network.doors import runnable_network
from tp_vgg.network.mode import modes_kept
from tp_vgg.network.network import Network

EVALUATION_BLOCK = 500
"""Images per forward pass. It is fixed, so that results do not depend on how much memory is free;
only running out of memory halves it."""


def classes_of(logits: torch.Tensor) -> torch.Tensor:
    """Return the predicted class, int64 [N], of each row of ``logits`` [N, classes].

    It is −1, which is never right, if a logit of the row is not finite: ``argmax`` would take a NaN
    for the largest.
    """
    return torch.where(logits.isfinite().all(1), logits.argmax(1), -1)


@torch.inference_mode()
def predictions(
    model: nn.Module,
    split: Split,
    normalisation: Normalisation,
    precision: torch.dtype = torch.float32,
    label: str = "",
) -> torch.Tensor:
    """Return the predicted class (:func:`classes_of`) of each image in eval mode, int64 [N].

    The images go through the model in blocks of :data:`EVALUATION_BLOCK`. If memory runs out, the
    block size is halved from there on, with a warning. ``precision``: float32, or bfloat16 for
    autocast. ``label``: the label of the progress bar; if empty, there is none.
    """
    device, size = split.labels.device, EVALUATION_BLOCK
    classes: list[torch.Tensor] = []
    normalise = normalisation.on(device)
    bar = progress_bar(label, unit="img", total=len(split), leave=False)
    with bar, modes_kept(model):
        model.eval()
        while (start := sum(map(len, classes))) < len(split):
            try:
                with exact_fp32(), autocast(device, precision):
                    classes.append(classes_of(model(normalise(split.images[start : start + size]))))
                bar.update(len(classes[-1]))
                continue
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or size == 1:
                    raise
            size = halved(size)  # outside the handler, so that the failed pass's memory is free
    return torch.cat(classes)


def accuracy(
    model: Network,
    images: Labelled,
    normalisation: Normalisation | None = None,
    *,
    label: str = "",
) -> Accuracy:
    """Measure the accuracy of ``model`` in eval mode on labelled images, with its 95 % interval.

    ``images``: a :class:`~tp_vgg.data.Split`, a pair (images, labels) of tensors, or a
    ``DataLoader`` (or another iterable, not a generator) of such pairs. uint8 images are normalised
    as ``model.meta`` says, or by ``normalisation``. Float images go to the network as they are, as
    in a loop of your own. Pairs and batches are moved to the device of ``model``.

    The model's mode is put back. Masks of ``torch.nn.utils.prune`` may stay. ``label``: the label
    of a progress bar; if empty, there is none. Returns ``correct``, ``n``, ``accuracy``, ``low``
    and ``high``, the last three in percent. Raises :class:`BadInput` for a model that its spec does
    not describe or that is not in float32, and for images or labels that do not fit it.
    """
    network = runnable_network(model)
    text("label")(label)
    if normalisation is None:
        normalisation = Normalisation.of(network.meta)
    elif not isinstance(normalisation, Normalisation):
        raise BadInput(
            f"normalisation: must be a Normalisation, got {type_name(normalisation)}; leave it out "
            "for that of model.meta"
        )
    correct = total = 0
    for split in Images.of("images", images, network).batches():
        correct += int(hits(network, split, normalisation, label=label).sum())
        total += len(split)
    return Accuracy.of(correct, total)


def hits(
    model: nn.Module,
    split: Split,
    normalisation: Normalisation,
    precision: torch.dtype = torch.float32,
    label: str = "",
) -> np.ndarray:
    """Return for each image whether the model in eval mode classifies it correctly, bool [N].

    The arguments are those of :func:`predictions`.
    """
    classes = predictions(model, split, normalisation, precision, label)
    correct: np.ndarray = (classes == split.labels).cpu().numpy()
    return correct
