"""Names and tensors that are no part of a network are taken out of its state dict here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from tp_vgg.files.bitmask import State
from tp_vgg.network.other_networks import not_a_vgg, some_names

_WRAPPER_MODULES = {
    "module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module",
}  # fmt: skip
"""Modules that DataParallel, ``torch.compile`` and others put around one; they compute nothing."""
_COUNTERS = {"total_ops", "total_params", "n_averaged"}
"""Buffers of a profiler (thop) and of ``torch.optim.swa_utils.AveragedModel``."""
_LOSSES = ("criterion.", "loss.", "loss_fn.", "loss_func.")


def without_wrappers(state: Mapping[str, torch.Tensor], notes: list[str]) -> State:
    """Return ``state`` without the names of modules that only wrap another one."""
    clean: State = {}
    removed: dict[str, None] = {}
    for name, value in state.items():
        parts = name.split(".")
        removed |= dict.fromkeys(part for part in parts if part in _WRAPPER_MODULES)
        new = ".".join(part for part in parts if part not in _WRAPPER_MODULES)
        if new in clean:
            raise not_a_vgg(state, "two tensors of one name", [new, name])
        clean[new] = value
    if removed:
        notes.append("names: " + " and ".join(f"'{part}.'" for part in removed) + " removed")
    return clean


def without_extras(state: State, notes: list[str]) -> State:
    """Return ``state`` without counters and the tensors of a loss, which the logits don't need."""
    extras = {
        name: None
        for name in state
        if name.rpartition(".")[2] in _COUNTERS or name.startswith(_LOSSES)
    }
    if extras:
        notes.append(f"dropped, not part of the network: {some_names(extras)}")
    return {name: value for name, value in state.items() if name not in extras}


def own_normalisation(state: State) -> tuple[list[float], list[float]] | None:
    """Take the buffers ``mean`` and ``std``, of three values each, out of ``state``."""
    places = {
        last: name
        for name, value in state.items()
        if (last := name.rpartition(".")[2]) in ("mean", "std") and value.numel() == 3
    }
    if len(places) < 2:
        return None
    mean, std = (state.pop(places[last]).flatten().tolist() for last in ("mean", "std"))
    return mean, std


def timm_head_as_linears(state: State, notes: list[str]) -> State:
    """Return ``state`` with the head of timm's VGG, two convs and a linear, as torchvision's.

    Its first conv covers the whole 7x7 map, as the first linear does.
    """
    names = {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3"}
    kernels = [tuple(state[f"{n}.weight"].shape[2:]) for n in names if f"{n}.weight" in state]
    if kernels != [(7, 7), (1, 1)]:
        return state
    notes.append(
        "head: timm's 'pre_logits' (convs) and 'head.fc' read as torchvision's linears (the same "
        "for images of less than 256 pixels)"
    )
    linears: State = {}
    for name, value in state.items():
        layer, _, last = name.rpartition(".")
        new = {**names, "head.fc": "classifier.6"}.get(layer, layer)
        linears[f"{new}.{last}"] = (
            value.flatten(1) if layer in names and last == "weight" else value
        )
    return linears


def common_prefix(names: Sequence[str]) -> str:
    """Return the modules that all names lie in, such as ``net.``."""
    shared: list[str] = []
    for parts in zip(*(name.split(".")[:-2] for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return "".join(f"{part}." for part in shared)
