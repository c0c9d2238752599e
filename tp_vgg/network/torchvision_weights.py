"""These functions build a VGG from weights under torchvision's names."""

from __future__ import annotations

import re
from dataclasses import replace

import torch

from tp_vgg.errors import BadInput, WorkFailed
from tp_vgg.files.bitmask import State
from tp_vgg.network.network import Meta, Network
from tp_vgg.network.state_dict import checked_tensors, filled_network
from tp_vgg.network.vgg.fold import can_fold_head, fold_head_columns
from tp_vgg.network.vgg.spec import STAGES, VGGSpec


def imagenet_weights(arch: str) -> tuple[dict[str, torch.Tensor], Meta]:
    """Return torchvision's ImageNet state dict of ``arch``, and its mean, std and source.

    Torchvision downloads the weights unless it has them. Raises :class:`WorkFailed` with a one-line
    reason if the download fails.
    """
    from torchvision import models

    weights = models.get_model_weights(arch)["IMAGENET1K_V1"]
    try:
        state = weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise WorkFailed(
            f"--weights imagenet: download from torchvision failed ({reason}); "
            "give a file with --weights PATH, or give --weights none"
        ) from None
    transforms = weights.transforms()
    return state, {
        "mean": list(transforms.mean),
        "std": list(transforms.std),
        "source": f"torchvision {weights}",
    }


def from_state_dict(state: object, image_size: int = 32) -> Network:
    """Return the network of a plain state dict with torchvision's names, in eval mode.

    The spec follows from names and shapes. The normalisation is taken to be CIFAR-10's and the
    image size to be 32; a head with a 7×7 pool is folded (:func:`fold_head_columns`).
    ``meta["notes"]`` says so. Raises :class:`BadInput` if ``state`` is not the state dict of a VGG.
    """
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()
    ):
        raise BadInput("neither a tp_vgg checkpoint nor a plain state dict of tensors")
    checked = checked_tensors(state)
    spec = _infer_spec(checked)
    notes = ["plain state dict: normalisation assumed to be CIFAR-10's, image size 32"]
    if can_fold_head(spec):
        first = f"{spec.linear_names[0]}.weight"
        checked[first] = fold_head_columns(checked[first])
        spec = replace(spec, pool=1)
        notes.append(
            f"head folded: {first} summed over the 49 equal columns of its 7x7 pool "
            "(exact at 32x32)"
        )
    return filled_network(spec, checked, {"notes": notes})


def _infer_spec(state: State) -> VGGSpec:
    """Infer the spec from the names and shapes of a plain state dict."""
    convs = _ordered(state, r"features\.(\d+)\.weight", ndim=4)
    linears = _ordered(state, r"classifier(?:\.(\d+))?\.weight", ndim=2)
    if len(convs) not in (depth - 3 for depth in STAGES) or not linears:
        raise BadInput(
            f"state_dict: {len(convs)} convs and {len(linears)} linears under torchvision's names; "
            "not a VGG-11, 13, 16 or 19"
        )
    last = convs[-1].shape[0]
    columns = linears[0].shape[1]
    if columns not in (last, last * 49):
        raise BadInput(
            f"state_dict: classifier: {columns} input columns for {last} channels; "
            f"must be {last} or {last * 49}"
        )
    return VGGSpec(
        widths=tuple(conv.shape[0] for conv in convs),
        batch_norm=any(name.endswith("running_mean") for name in state),
        pool=7 if columns == last * 49 else 1,
        hidden=tuple(linear.shape[0] for linear in linears[:-1]),
        num_classes=linears[-1].shape[0],
    )


def _ordered(state: State, pattern: str, ndim: int) -> list[torch.Tensor]:
    """Return the ``ndim``-dimensional tensors whose names match, by the index in their names."""
    matches = [
        (int(match.group(1) or 0), value)
        for name, value in state.items()
        if (match := re.fullmatch(pattern, name)) and value.ndim == ndim
    ]
    return [value for _, value in sorted(matches, key=lambda pair: pair[0])]
