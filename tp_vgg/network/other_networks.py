"""The refusal of a state dict says what it holds, and of which other network it looks to be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import torch

from tp_vgg.errors import BadInput, shown

_SHOWN = 3
_LONGEST = 30
"""Limits on how many names a message shows, and on their characters."""
_FAMILIES = {
    "a DenseNet": r"denseblock\d+\.",
    "a ResNet": r"\blayer[1-4]\.\d+\.(conv|bn)\d|\.(downsample|shortcut)\.",
    "a vision transformer": r"cls_token|class_token|pos_embed|self_attention|\battn\b|patch_embed",
    "an Inception": r"Mixed_\d|inception\d|branch\d?x\d|branch_pool",
    "a SqueezeNet": r"squeeze\.weight|expand3x3",
    "a network with squeeze-and-excitation": r"\.se\.|_se_reduce|_depthwise_conv",
    "a ConvNeXt": r"layer_scale|dwconv",
    "a network in quantization-aware training": r"activation_post_process|fake_quant",
    "a network with LoRA adapters": r"lora_[AB]|lora_(up|down)",
}


def not_a_vgg(
    state: Mapping[str, torch.Tensor], reason: str, names: Sequence[object] = ()
) -> BadInput:
    """Return the refusal of a state dict: what it looks to be, why, and what to use instead.

    ``names`` are the tensors at fault; without any, the first ones of ``state`` are shown.
    """
    family = looks_like(state)
    if family:
        reason, names = f"looks like {family}", ()
    return BadInput(
        f"state_dict: not a VGG that tp_vgg knows ({reason}: {some_names(names or list(state))}); "
        "give a VGG-11, 13, 16 or 19 under torchvision's names"
        + (", or prune it with torch_pruning.pruner.MagnitudePruner" if family else "")
    )


def some_names(names: Iterable[object]) -> str:
    """Return the first names for a message: ASCII, at most three, each of limited length."""
    listed = list(names)
    texts = [
        text if len(text := shown(name)) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
        for name in islice(listed, _SHOWN)
    ]
    return ", ".join(texts) + (", ..." if len(listed) > _SHOWN else "")


def looks_like(state: Mapping[str, torch.Tensor]) -> str | None:
    """Return the kind of network, by its names and shapes; None if it is not known."""
    for family, pattern in _FAMILIES.items():
        if any(re.search(pattern, name) for name in state):
            return family
    convs = [value for value in state.values() if value.ndim == 4]
    if any(conv.shape[1] == 1 and conv.shape[0] > 1 for conv in convs[1:]):
        return "a MobileNet or another network of depthwise convs"
    if convs and convs[0].shape[2] == 11:
        return "an AlexNet"
    if not convs and any(value.ndim == 2 for value in state.values()):
        return "a network of linear layers only"
    return None
