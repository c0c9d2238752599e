"""The networks that Python callers give are checked here, before anything works on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from tp_vgg.errors import BadInput
from tp_vgg.files.checks import type_name
from tp_vgg.network.families import empty_network
from tp_vgg.network.masks import has_masks
from tp_vgg.network.network import Network
from tp_vgg.network.plain_copy import inner_name, plain_copy
from tp_vgg.network.plain_meta import plain_kept
from tp_vgg.network.same_logits import check_same_logits
from tp_vgg.network.spec import Spec
from tp_vgg.network.vgg.rebuild import described
from tp_vgg.network.vgg.spec import MAX_WIDTH

UNMASK = (
    "remove them first: torch.nn.utils.prune.remove(module, name) keeps the zeros, "
    "and so does tp_vgg.save"
)


def network_of(model: object, name: str = "model") -> Network:
    """Return ``model`` itself, as a network; ``name`` is how messages call it.

    Raises :class:`BadInput`, which names the fix, for a wrapper, for a module that is no network of
    tp_vgg, and for anything else.
    """
    if not isinstance(model, nn.Module):
        raise BadInput(
            f"{name}: must be a network of tp_vgg.build or tp_vgg.load, got {type_name(model)}"
        )
    kind = type(model).__name__
    inner = inner_name(model)
    if inner is not None:
        raise BadInput(f"{name}: wrapped in {kind}; give the network inside, its .{inner}")
    if not isinstance(model, Network):
        raise BadInput(f"{name}: {kind} is not a network of tp_vgg; {_way(model)}")
    for attribute in ("spec", "meta", "kept"):
        if not hasattr(model, attribute):
            raise BadInput(
                f"{name}: has no .{attribute}; make the network with tp_vgg.build or tp_vgg.load"
            )
    described_by_spec = hasattr(model.spec, "to_dict") and not isinstance(model.spec, type)
    if not isinstance(model.meta, dict) or not described_by_spec:
        raise BadInput(f"{name}: .meta must be a dict and .spec a tp_vgg.VGGSpec")
    if not isinstance(model.kept, Mapping):
        raise BadInput(f"{name}: kept: must be an object, got {type_name(model.kept)}")
    return model


def unmasked_network(model: object, name: str = "model", dtype: str = "float32") -> Network:
    """Return ``model`` if its modules are those of its spec, without masks and in float32.

    ``dtype`` is ``any`` if the caller casts the model. Raises :class:`BadInput` otherwise.
    """
    network = network_of(model, name)
    if has_masks(network):
        raise BadInput(f"{name}: has weight masks; {UNMASK}")
    check_shapes(network, name)
    _check_tensors(network, name, dtype)
    return network


def runnable_network(model: object, name: str = "model") -> Network:
    """Return ``model`` if its modules are those of its spec, in float32.

    Weight masks and parametrizations may stay. Raises :class:`BadInput` otherwise.
    """
    network = network_of(model, name)
    _check_tensors(network, name)
    rewritten = has_masks(network) or any(map(is_parametrized, network.modules()))
    check_shapes(cast(Network, plain_copy(network)) if rewritten else network, name)
    return network


def _check_tensors(network: Network, name: str, dtype: str = "float32") -> None:
    for tensor_name, value in network.state_dict().items():
        if value.is_meta:
            raise BadInput(f"{name}: {tensor_name}: on the meta device, without values")
        if dtype != "any" and value.is_floating_point() and value.dtype != torch.float32:
            raise BadInput(
                f"{name}: {tensor_name}: {str(value.dtype).removeprefix('torch.')}; "
                "give the model in float32: model.float()"
            )


def check_no_inference_tensors(network: Network, name: str = "model") -> None:
    """Raise :class:`BadInput` if autograd can't work on the tensors of ``network``."""
    for tensor_name, value in network.state_dict().items():
        if value.is_inference():
            raise BadInput(
                f"{name}: {tensor_name}: made in torch.inference_mode(); build or load the model "
                "outside of it"
            )


def check_kept(network: Network, name: str = "model") -> None:
    """Raise :class:`BadInput` unless ``network.kept`` is what a pruning left there."""
    try:
        checked_kept(plain_kept(network.kept), network.spec, network.meta)
    except BadInput as error:
        raise BadInput(f"{name}: {error}; {name}.kept = {{}} starts anew") from None


def checked_kept(kept: object, spec: Spec, meta: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return ``kept`` if it has sorted indices of the channels of ``spec``'s layers.

    They are below the dense widths in ``meta``. Raises :class:`BadInput` otherwise.
    """
    if not isinstance(kept, dict):
        raise BadInput("kept: must be an object")
    dense = meta.get("dense_widths", {})
    if not isinstance(dense, dict):
        raise BadInput("meta: dense_widths: must be an object")
    for layer, indices in kept.items():
        width = spec.prunable.get(layer) if isinstance(layer, str) else None
        limit = dense.get(layer, MAX_WIDTH)
        if width is None or type(limit) is not int:
            raise BadInput(
                f"kept: {ascii(layer)[:80]}: "
                f"not a prunable layer of {spec.arch} with the {spec.head} head"
            )
        valid = (
            isinstance(indices, list)
            and len(indices) == width
            and all(type(i) is int and 0 <= i < limit for i in indices)
        )
        if not valid or indices != sorted(set(indices)):
            raise BadInput(
                f"kept: {layer}: must be {width} sorted, unique channel indices below {limit}"
            )
    return kept


def check_built(network: Network, name: str = "model") -> None:
    """Raise :class:`BadInput` if a module of ``network`` computes other than its spec says.

    The logits of a copy are compared with those of a network that is built from the spec with the
    same tensors.
    """
    duplicate = plain_copy(network)
    built = empty_network(network.spec)
    built.load_state_dict(duplicate.state_dict(), assign=True)
    try:
        check_same_logits(duplicate, built.eval())
    except BadInput as error:
        raise BadInput(f"{name}: {error}; build the network from its spec") from None


def check_shapes(network: Network, name: str = "model") -> None:
    """Raise :class:`BadInput` unless the tensors have the names and shapes that the spec says."""
    spec: Spec = network.spec
    shapes = {key: list(value.shape) for key, value in empty_network(spec).state_dict().items()}
    tensors = network.state_dict()
    for key, value in tensors.items():
        if key.rpartition(".")[2] in ("total_ops", "total_params"):
            continue
        if list(value.shape) != shapes.get(key):
            expected = shapes.get(key)
            says = "lacks it" if expected is None else f"says {expected}"
            raise BadInput(
                f"{name}: {key[:80]}: shape {list(value.shape)}, its spec {says}; set model.spec "
                "to the VGGSpec of the modules, as loading what tp_vgg.save writes does"
            )
    missing = [key for key in shapes if key not in tensors]
    if missing:
        raise BadInput(
            f"{name}: {missing[0]}: missing; {spec.arch} with the {spec.head} head has it"
        )


def _way(model: nn.Module) -> str:
    """Return the way from a module that is no network of tp_vgg to one."""
    holder = next((key for key, part in model.named_modules() if isinstance(part, Network)), None)
    if holder is not None:
        return f"it holds one: give model.{holder}"
    try:
        described(model, 32)
    except BadInput:
        return "tp_vgg prunes VGG-11 to VGG-19; for other networks use torch-pruning directly"
    return "give tp_vgg.from_torchvision(model)"
