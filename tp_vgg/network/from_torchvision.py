"""A VGG module of torchvision, or one laid out as it, becomes a network of tp_vgg."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from tp_vgg.data.split import CIFAR10_MEAN, CIFAR10_STD
from tp_vgg.errors import BadInput
from tp_vgg.files.checks import triple, type_name, whole_number
from tp_vgg.network.checkpoint import checkpoint_of
from tp_vgg.network.network import Network
from tp_vgg.network.plain_copy import unwrapped


def from_torchvision(
    model: nn.Module,
    *,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Network:
    """Return a network with copies of the weights of torchvision's ``vgg11`` to ``vgg19_bn``.

    It gives the same logits as ``model`` in eval mode, which is checked on noise images; it is on
    the CPU, in eval mode and float32, and shares no memory with ``model``. A head with a 7×7 pool
    stays as it is. Any module with ``features`` and ``classifier`` that computes the same as a VGG
    of these depths will do, whatever its widths and its number of classes.

    ``image_size``: side of the square images in pixels, 32 by default. ``mean`` and ``std``: the
    normalisation of the images that ``model`` was trained on, for pixels in [0, 1], three numbers
    each; both are CIFAR-10's by default. ``meta["notes"]`` says which defaults were assumed.

    Raises :class:`BadInput`, which names the first module that differs, if ``model`` is no VGG.
    """
    if not isinstance(model, nn.Module):
        raise BadInput(f"model: must be a torch.nn.Module, got {type_name(model)}")
    if isinstance(unwrapped(model), Network):
        raise BadInput("model: is a network of tp_vgg already; use it as it is")
    side = whole_number("image_size", 32 if image_size is None else image_size, 32, 1024)
    if (mean is None) != (std is None):
        raise BadInput(f"{'std' if std is None else 'mean'}: missing; give both mean and std")
    notes = []
    if mean is None or std is None:
        mean, std = CIFAR10_MEAN, CIFAR10_STD
        notes.append("from_torchvision: normalisation assumed to be CIFAR-10's")
    if image_size is None:
        notes.append("from_torchvision: image size assumed to be 32")
    meta: dict[str, Any] = {"mean": triple("mean", mean), "std": triple("std", std, positive=True)}
    if notes:
        meta["notes"] = notes
    return checkpoint_of(model, side, meta, {})[1]
