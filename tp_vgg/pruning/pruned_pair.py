"""A pruned network and the dense one that it was pruned from are checked here, as a pair."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from tp_vgg.errors import BadInput, shown
from tp_vgg.files.checks import sequence, text
from tp_vgg.network.doors import check_kept, check_no_inference_tensors
from tp_vgg.network.network import Network


def check_weights(model: Network) -> None:
    """Raise :class:`BadInput` if the weights of ``model`` can't be changed in place."""
    check_no_inference_tensors(model)
    for name, module in model.named_modules():
        if is_parametrized(module):
            raise BadInput(
                f"model: {name}: its tensors are computed from others (a parametrization); "
                "remove that first: torch.nn.utils.parametrize.remove_parametrizations"
            )


def kept_places(model: Network, dense: Network) -> dict[str, list[int]]:
    """Return which channels of each conv and linear layer of ``dense`` are left in ``model``.

    Raises :class:`BadInput` if ``model`` was not pruned from ``dense``, or shares tensors with it.
    """
    if model is dense:
        raise BadInput("dense: is the model itself; give a copy from before the pruning")
    storages = [
        {value.untyped_storage().data_ptr() for value in part.state_dict().values()}
        for part in (model, dense)
    ]
    if storages[0] & storages[1]:
        raise BadInput(
            "dense: shares tensors with the model, which the repair would change; give "
            "copy.deepcopy(model) from before the pruning"
        )
    if next(model.parameters()).device != next(dense.parameters()).device:
        raise BadInput(
            f"dense: on {next(dense.parameters()).device}, the model on "
            f"{next(model.parameters()).device}; move one of them with .to()"
        )
    check_kept(model)
    check_kept(dense, "dense")
    names = dict(model.spec.prunable)
    if set(names) != set(dense.spec.prunable) or dense.spec.with_widths(names) != model.spec:
        raise BadInput(
            f"dense: {dense.spec.arch} of other layers than the model, a {model.spec.arch}; "
            "give the network that it was pruned from"
        )
    places = {row.name: list(range(row.out_width)) for row in dense.spec.rows}
    for name, width in names.items():
        dense_kept = dense.kept.get(name, list(range(dense.spec.prunable[name])))
        position = {channel: place for place, channel in enumerate(dense_kept)}
        kept = model.kept.get(name, dense_kept)
        if len(kept) != width or not set(kept) <= set(position):
            raise BadInput(
                f"dense: {name}: the model's {width} channels are not among its {len(dense_kept)}; "
                "give the network that it was pruned from, whose .kept says so"
            )
        places[name] = [position[channel] for channel in kept]
    return places


def layer_names(model: Network, layers: Iterable[str] | None) -> set[str]:
    """Return the names of the conv and linear layers that a caller chose; ``None`` is all.

    Raises :class:`BadInput` if one is unknown, or if there is none.
    """
    known = [row.name for row in model.spec.rows]
    if layers is None:
        return set(known)
    names = sequence("layers", layers, f"['{known[0]}', '{known[-1]}']", text("layers"))
    if not names:
        raise BadInput(f"layers: no names; give some of {', '.join(known)}, or None for all")
    for name in names:
        if name not in known:
            raise BadInput(f"layers: {shown(name)} is not one of {', '.join(known)}")
    return set(names)


def same_rows(part: nn.Conv2d | nn.Linear, whole: nn.Conv2d | nn.Linear, places: list[int]) -> bool:
    """Return True if ``part`` has the rows ``places`` of ``whole``, to the bit."""
    if not torch.equal(part.weight, whole.weight[places]):
        return False
    if part.bias is None or whole.bias is None:
        return part.bias is whole.bias
    return torch.equal(part.bias, whole.bias[places])


def same_norm(part: nn.BatchNorm2d, whole: nn.BatchNorm2d) -> bool:
    """Return True if both compute the same in eval mode, to the bit."""
    return part.eps == whole.eps and all(
        torch.equal(getattr(part, name), getattr(whole, name))
        for name in ("weight", "bias", "running_mean", "running_var")
    )
