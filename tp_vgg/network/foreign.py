"""The tensors of somebody else's VGG are brought under torchvision's names here.

Layers are told apart by the shapes of their tensors, and ordered by the numbers in their names. A
file does not say where maps are pooled. The numbers have to show it: the index of a conv in a
``Sequential`` rises by more behind a pool, or convs are grouped by stage. Otherwise the file is
refused, because the logits could be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from tp_vgg.errors import BadInput
from tp_vgg.files.bitmask import State
from tp_vgg.network.foreign_layout import (
    assumed,
    check_pooling,
    numbers,
    order_linears,
    refuse_network_slimming,
    template,
)
from tp_vgg.network.foreign_names import (
    common_prefix,
    own_normalisation,
    timm_head_as_linears,
    without_extras,
    without_wrappers,
)
from tp_vgg.network.other_networks import looks_like, not_a_vgg, some_names
from tp_vgg.network.reparametrised import baked
from tp_vgg.network.state_dict import checked_tensors, dtype_notes
from tp_vgg.network.vgg.spec import STAGES, VGGSpec

_STATISTICS = {"running_mean", "running_var"}
_DEPTHS = {depth - 3: depth for depth in STAGES}


@dataclass(frozen=True)
class ForeignVGG:
    """A foreign VGG is the network of a plain state dict, under torchvision's names."""

    spec: VGGSpec
    """Its spec; the image size is not known from tensors."""
    state: State
    notes: tuple[str, ...]
    """What was done to the file's tensors and names."""
    normalisation: tuple[list[float], list[float]] | None
    """Mean and std, if the network normalises its images itself."""


@dataclass
class _Layers:
    """Layers by name, in the order of the file, with their tensors."""

    convs: dict[str, State] = field(default_factory=dict)
    norms: dict[str, State] = field(default_factory=dict)
    linears: dict[str, State] = field(default_factory=dict)


def foreign_vgg(state: Mapping[str, torch.Tensor], *, in_order: bool = True) -> ForeignVGG:
    """Return the VGG whose tensors ``state`` holds under any names.

    ``in_order``: the names come in the order of the layers, as in a file of torch (not so in one
    of safetensors). Raises :class:`BadInput` if ``state`` is not the state dict of a VGG, if a
    layer has no counterpart in one, or if it can't be told where maps are pooled.
    """
    notes: list[str] = []
    tensors = without_extras(without_wrappers(state, notes), notes)
    notes += dtype_notes(tensors)
    tensors = {
        name: value.float() if name.endswith("_mask") and value.dtype is torch.bool else value
        for name, value in tensors.items()
    }
    try:
        tensors, baking = baked(checked_tensors(tensors))
    except BadInput:
        if looks_like(state):
            raise not_a_vgg(state, "") from None
        raise
    notes += baking
    normalisation = own_normalisation(tensors)
    prefix = common_prefix(list(tensors))
    if normalisation is None and re.search(r"\b[1-9]\d*\.", prefix):
        raise not_a_vgg(
            state, "another layer in front, such as a normalisation; save the VGG's own state_dict"
        )
    if prefix:
        notes.append(f"names: {ascii(prefix)[:60]} in front of every name removed")
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    tensors = timm_head_as_linears(tensors, notes)
    layers = _layers(tensors)
    convs, norms = _checked_convs(layers, tensors)
    linears = _checked_linears(layers, convs, tensors, in_order)
    refuse_network_slimming(layers.convs, len(linears))
    spec = _spec(layers, convs, norms, linears)
    if not _as_torchvision(spec, convs, norms, linears):
        notes.append(assumed(spec))
    return ForeignVGG(
        spec, _renamed(layers, (convs, norms, linears), spec, notes), tuple(notes), normalisation
    )


def _layers(state: State) -> _Layers:
    """Tell layers apart by their tensors; raises :class:`BadInput` for any other layer."""
    modules: dict[str, State] = {}
    for name, value in state.items():
        module, _, last = name.rpartition(".")
        modules.setdefault(module, {})[last] = value
    layers = _Layers()
    odd: list[str] = []
    for module, tensors in modules.items():
        weight = tensors.get("weight")
        ndim = weight.ndim if weight is not None else 0
        if ndim in (2, 4) and set(tensors) <= {"weight", "bias"}:
            (layers.convs if ndim == 4 else layers.linears)[module] = tensors
        elif set(tensors) >= _STATISTICS and set(tensors) <= {
            *_STATISTICS, "weight", "bias", "num_batches_tracked"
        }:  # fmt: skip
            layers.norms[module] = tensors
        elif ndim == 1 and set(tensors) <= {"weight", "bias"} and "bias" in tensors:
            raise not_a_vgg(
                state,
                "a norm without running statistics; batch norm needs track_running_stats=True, and "
                "state_dict() saves them",
                [f"{module}.weight"],
            )
        else:
            odd += [f"{module}.{last}" if module else last for last in tensors]
    if odd:
        raise not_a_vgg(state, "tensors of no layer of a VGG", odd)
    return layers


def _checked_convs(layers: _Layers, state: State) -> tuple[list[str], list[str]]:
    """Return the names of the convs and of the batch norms behind them, in order."""
    count = len(layers.convs)
    if count not in _DEPTHS:
        raise not_a_vgg(
            state,
            f"{count} convs and {len(layers.linears)} linears, where a VGG has 8, 10, 13 or 16 "
            "convs",
        )
    convs = sorted(layers.convs, key=numbers)
    weights = [layers.convs[name]["weight"] for name in convs]
    for name, weight in zip(convs, weights, strict=True):
        if weight.shape[2:] != (3, 3):
            raise not_a_vgg(state, f"a kernel of {tuple(weight.shape[2:])}", [name])
    if weights[0].shape[1] != 3:
        raise not_a_vgg(state, f"images of {weights[0].shape[1]} channels, must be 3", convs[:1])
    for (first, before), (second, behind) in pairwise(zip(convs, weights, strict=True)):
        if before.shape[0] != behind.shape[1]:
            raise not_a_vgg(
                state,
                f"{behind.shape[1]} channels into a conv behind one of {before.shape[0]}",
                [first, second],
            )
    norms = _checked_norms(layers, convs, state)
    check_pooling(state, convs, norms, _DEPTHS[count])
    return convs, norms


def _checked_norms(layers: _Layers, convs: Sequence[str], state: State) -> list[str]:
    """Return the batch norms in the order of ``convs``, one behind each, or none at all."""
    if not layers.norms:
        return []
    norms = sorted(layers.norms, key=numbers)
    widths = [layers.norms[name]["running_mean"].numel() for name in norms]
    if len(norms) > len(convs):
        places = {template(conv.rpartition(".")[0]) for conv in convs}
        others = [name for name in norms if template(name.rpartition(".")[0]) not in places]
        raise not_a_vgg(
            state, "batch norm that is behind no conv, such as in the head", others or norms
        )
    if len(norms) < len(convs):
        raise not_a_vgg(state, "batch norm behind some convs only", norms)
    if widths != [layers.convs[name]["weight"].shape[0] for name in convs]:
        raise not_a_vgg(state, "batch norms as wide as other convs", norms)
    step = 1 if len({template(name) for name in (*convs, *norms)}) == 1 else 0
    for conv, norm in zip(convs, norms, strict=True):
        *stage, place = numbers(conv) or (0,)
        if (numbers(norm) or (0,)) != (*stage, place + step):
            raise not_a_vgg(state, "batch norm that is not directly behind its conv", [conv, norm])
    return norms


def _checked_linears(
    layers: _Layers, convs: Sequence[str], state: State, in_order: bool
) -> list[str]:
    """Return the names of the linears in order; each reads what the one before gives."""
    if not layers.linears:
        raise not_a_vgg(state, "no linear layer behind the convs", convs[-1:])
    sizes = {
        name: (tensors["weight"].shape[1], tensors["weight"].shape[0])
        for name, tensors in layers.linears.items()
    }
    channels = layers.convs[convs[-1]]["weight"].shape[0]
    starts = (channels, channels * 49)
    if not any(columns in starts for columns, _ in sizes.values()):
        name, (columns, _) = next(iter(sizes.items()))
        field = f"state_dict: {ascii(name)[1:-1][:60]}"
        raise BadInput(
            f"{field}: {columns} input columns for {channels} channels; "
            f"must be {channels} or {channels * 49} (a map of 1x1 or 7x7 behind the last pool)"
        )
    linears = order_linears(sizes, starts, in_order=in_order)
    if linears is None:
        raise not_a_vgg(
            state, "linears that do not read each other in one clear order", list(sizes)
        )
    return linears


def _spec(
    layers: _Layers, convs: Sequence[str], norms: Sequence[str], linears: Sequence[str]
) -> VGGSpec:
    widths = tuple(layers.convs[name]["weight"].shape[0] for name in convs)
    outputs = [layers.linears[name]["weight"].shape[0] for name in linears]
    columns = layers.linears[linears[0]]["weight"].shape[1]
    return VGGSpec(
        widths=widths,
        batch_norm=bool(norms),
        pool=1 if columns == widths[-1] else 7,
        hidden=tuple(outputs[:-1]),
        num_classes=outputs[-1],
    )


def _as_torchvision(
    spec: VGGSpec, convs: Sequence[str], norms: Sequence[str], linears: Sequence[str]
) -> bool:
    """Return True if names and head are torchvision's, so that its layout is known.

    A 1x1 map in front of the head is not torchvision's: an average pool may make it.
    """
    names = (tuple(convs), tuple(norms), tuple(linears))
    own = (spec.conv_names, spec.norm_names, spec.linear_names)
    return names == own and spec.pool == 7 and len(spec.hidden) == 2


def _renamed(
    layers: _Layers,
    names: tuple[Sequence[str], Sequence[str], Sequence[str]],
    spec: VGGSpec,
    notes: list[str],
) -> State:
    """Return all tensors under torchvision's names; those that a layer lacks are added."""
    state: State = {}
    convs, norms, linears = names
    added: dict[str, list[str]] = {"bias": [], "scale and shift": []}
    for kind, old, new in (
        (layers.convs, convs, spec.conv_names),
        (layers.norms, norms, spec.norm_names),
        (layers.linears, linears, spec.linear_names),
    ):
        for name, target in zip(old, new, strict=True):
            tensors = kind[name]
            norm = kind is layers.norms
            size = tensors["running_mean"].numel() if norm else tensors["weight"].shape[0]
            for part, fill in (("weight", 1.0), ("bias", 0.0)):
                if part not in tensors:
                    tensors[part] = torch.full((size,), fill)
                    added["scale and shift" if norm else "bias"].append(name)
            state |= {f"{target}.{part}": value for part, value in tensors.items()}
    if added["bias"]:
        notes.append(f"layers without a bias get one of zeros: {some_names(added['bias'])}")
    if added["scale and shift"]:
        missing = list(dict.fromkeys(added["scale and shift"]))
        notes.append(f"batch norms without scale and shift get 1 and 0: {some_names(missing)}")
    if tuple(convs) != spec.conv_names:
        notes.append(
            f"convs: {some_names(convs)} read as {some_names(spec.conv_names)} in this order"
        )
    if tuple(linears) != spec.linear_names:
        notes.append(
            f"head: {some_names(linears)} read as {some_names(spec.linear_names)} in this order"
        )
    return state
