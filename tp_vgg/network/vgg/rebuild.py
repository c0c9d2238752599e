"""A module that is laid out as a VGG is described by a spec here, and its tensors are named."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tp_vgg.errors import BadInput
from tp_vgg.files.bitmask import State
from tp_vgg.network.vgg.spec import STAGES, VGGSpec

_COUNTED = ("total_ops", "total_params")
"""Buffers that thop, which counts MACs, leaves in a module."""


def described(module: nn.Module, image_size: int) -> VGGSpec:
    """Return the spec of a module whose ``features`` and ``classifier`` are a VGG's.

    Widths, head and batch norm follow from the convs, batch norms and linears in their order. That
    the module computes what the spec builds is left to the caller to check
    (:func:`tp_vgg.network.same_logits.check_same_logits`).

    Raises :class:`BadInput` if the module is no VGG.
    """
    convs, norms, linears = _layers(module)
    name = type(module).__name__
    if len(convs) not in (depth - 3 for depth in STAGES) or not linears:
        raise BadInput(
            f"{name}: {len(convs)} convs in its features and {len(linears)} linears in its "
            "classifier; not a VGG: tp_vgg prunes VGG-11, 13, 16 and 19; "
            "for other networks use torch-pruning directly"
        )
    if len(norms) not in (0, len(convs)):
        raise BadInput(f"{name}: {len(norms)} batch norms for {len(convs)} convs; not a VGG")
    last, columns = convs[-1].out_channels, linears[0].in_features
    if columns not in (last, 49 * last):
        raise BadInput(
            f"{name}: classifier: {columns} input columns for {last} channels; "
            f"must be {last} or {49 * last}"
        )
    return VGGSpec(
        widths=tuple(conv.out_channels for conv in convs),
        batch_norm=bool(norms),
        pool=1 if columns == last else 7,
        hidden=tuple(linear.out_features for linear in linears[:-1]),
        num_classes=linears[-1].out_features,
        image_size=image_size,
    )


def named_tensors(module: nn.Module, spec: VGGSpec) -> State:
    """Return the tensors of ``module`` under the names of the network of ``spec``; no copies.

    A missing bias is added as zeros, a missing scale of batch norm as ones. Raises
    :class:`BadInput` if the module has a tensor that the network of ``spec`` lacks, or lacks the
    running statistics of a batch norm.
    """
    convs, norms, linears = _layers(module)
    used: set[int] = set()
    state: State = {}

    def put(prefix: str, layer: nn.Module, width: int, fills: dict[str, float]) -> None:
        for name, fill in fills.items():
            value = getattr(layer, name)
            if value is None:
                value = torch.full((width,), float(fill))
            used.add(id(value))
            state[f"{prefix}.{name}"] = value.detach()

    for name, conv in zip(spec.conv_names, convs, strict=True):
        put(name, conv, conv.out_channels, {"weight": 0, "bias": 0})
    for name, norm in zip(spec.norm_names, norms, strict=True):
        if norm.running_mean is None or norm.running_var is None:
            raise BadInput(
                f"{name}: batch norm without running statistics; "
                "build it with track_running_stats=True"
            )
        fills = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
        put(name, norm, norm.num_features, fills)
        count = norm.num_batches_tracked
        used.add(id(count))
        state[f"{name}.num_batches_tracked"] = (
            torch.tensor(0) if count is None else count.detach().to(torch.int64).squeeze()
        )
    for name, linear in zip(spec.linear_names, linears, strict=True):
        put(name, linear, linear.out_features, {"weight": 0, "bias": 0})
    for name, value in chain(module.named_parameters(), module.named_buffers()):
        if id(value) not in used and name.rpartition(".")[2] not in _COUNTED:
            raise BadInput(
                f"{name[:80]}: not a tensor of {spec.arch} with the {spec.head} head; "
                "remove its module"
            )
    return state


def _layers(module: nn.Module) -> tuple[list[nn.Conv2d], list[_BatchNorm], list[nn.Linear]]:
    features = list(_modules(module, "features"))
    return (
        [part for part in features if isinstance(part, nn.Conv2d)],
        [part for part in features if isinstance(part, _BatchNorm)],
        [part for part in _modules(module, "classifier") if isinstance(part, nn.Linear)],
    )


def _modules(module: nn.Module, name: str) -> Iterator[nn.Module]:
    part = getattr(module, name, None)
    return part.modules() if isinstance(part, nn.Module) else iter(())
