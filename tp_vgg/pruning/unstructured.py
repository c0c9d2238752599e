"""Unstructured pruning masks weights with ``torch.nn.utils.prune``, per layer or globally."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import nn
from torch.nn.utils import prune

from tp_vgg.errors import BadInput, WorkFailed
from tp_vgg.files.checks import choice, plain_number, true_or_false
from tp_vgg.network.doors import network_of
from tp_vgg.network.masks import is_masked, remove_masks
from tp_vgg.network.network import Network, prunable_layers
from tp_vgg.pruning.ratios import Plan, resolve_sparsity

Scope = Literal["layer", "global"]
"""Weights are ranked within each layer, or over all layers together."""


def prune_unstructured(
    model: Network,
    sparsity: float | Plan | Mapping[str, float],
    *,
    scope: Scope = "layer",
    masks: bool = False,
) -> None:
    """Set the smallest weights of ``model`` to exact zeros, in place, without fine-tuning.

    An optimiser moves these zeros again. Train with :func:`tp_vgg.finetune`, inside of
    ``with tp_vgg.held(model):``, or with ``masks=True``: then the masks of ``torch.nn.utils.prune``
    stay (``weight_orig`` and ``weight_mask``), which cover every zero of a prunable layer.

    ``sparsity``: the fraction of weights to zero, in [0, 1). One number applies to every conv and
    hidden linear layer or, with ``scope="global"``, to all of them ranked together. A plan or a
    mapping gives one number for each layer that it names.

    Zeros that are there already count, masks of ``torch.nn.utils.prune`` included, which are
    removed and their zeros kept. So 0.7 asked of a layer with half of its weights zero gives 0.7,
    and 0.3 leaves it at 0.5.

    Raises :class:`BadInput`, and changes nothing, for unknown layers, values outside [0, 1), a plan
    that would zero a whole layer, another ``scope``, ``scope="global"`` with more than one number,
    and a model that its spec does not describe; :class:`WorkFailed`, likewise, if the global
    ranking would zero a whole layer.
    """
    true_or_false("masks", masks)
    choice("scope", scope, get_args(Scope))
    network = network_of(model)
    value = plain_number(sparsity)
    if scope == "global":
        if isinstance(value, Plan | Mapping):
            raise BadInput("scope: global ranks all layers together and takes one number")
        plan = Plan.uniform(value, (), "sparsity")
    elif isinstance(value, Plan | Mapping):
        plan = value if isinstance(value, Plan) else Plan.of(value, "sparsity")
    else:
        plan = Plan.uniform(value, tuple(network.spec.prunable), "sparsity")
    resolve_sparsity(plan, network.spec)
    check_prunable(network)
    if scope == "global":
        _check_ranking(network, float(value))
    remove_masks(network)
    if scope == "global":
        mask_global(network, float(value))
    else:
        mask_layers(network, plan)
    if masks:
        _mask_zeros(network)
    else:
        remove_masks(network)


def _mask_zeros(model: Network) -> None:
    """Extend the masks of ``model`` to zeros that an earlier pruning left, in place."""
    for layer in maskable_layers(model).values():
        kept = layer.weight.detach() != 0
        if kept.sum() < getattr(layer, "weight_mask", torch.ones_like(kept)).sum():
            prune.custom_from_mask(layer, "weight", kept)


def check_prunable(model: Network) -> None:
    """Raise :class:`BadInput` unless each prunable layer has the weight that the spec describes."""
    shapes = {row.name: (row.out_width, row.in_width) for row in model.spec.rows}
    for name in model.spec.prunable:
        try:
            layer = model.get_submodule(name)
        except AttributeError:
            raise BadInput(f"model: {name}: missing; {model.spec.arch} has a layer there") from None
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            raise BadInput(f"model: {name}: {type(layer).__name__}, its spec has a layer there")
        if not {"weight", "weight_orig"} & set(layer._parameters):
            raise BadInput(
                f"model: {name}: its weight is computed from other tensors (a parametrization); "
                "remove that first: torch.nn.utils.parametrize.remove_parametrizations"
            )
        if layer.weight.is_meta:
            raise BadInput(f"model: {name}: its weight is on the meta device, without values")
        if tuple(layer.weight.shape[:2]) != shapes[name]:
            raise BadInput(
                f"model: {name}: weight of shape {list(layer.weight.shape)}, its spec says "
                f"{list(shapes[name])}; set model.spec to the VGGSpec of the modules"
            )


Scores = Mapping[str, torch.Tensor]
"""Importance of every weight, in the shape of the layer's weight, by layer name."""


class LeastImportant(prune.L1Unstructured):
    """This pruning method is torch's ``L1Unstructured`` with a fixed order of equal magnitudes.

    Of equal magnitudes, the first in memory are zeroed first; torch's choice depends on the device.
    """

    def compute_mask(self, t: torch.Tensor, default_mask: torch.Tensor) -> torch.Tensor:
        """Return ``default_mask``, also zero at the ``amount`` smallest magnitudes of ``t``."""
        zeros = self.amount if isinstance(self.amount, int) else round(self.amount * t.numel())
        (kept,) = magnitude_masks(t.detach().abs(), [zeros])
        return default_mask * kept


def magnitude_masks(magnitudes: torch.Tensor, zeros: Sequence[int]) -> Iterator[torch.Tensor]:
    """Yield one mask per count in ``zeros``, False at that many of the smallest magnitudes.

    The masks are bool, in the shape of ``magnitudes``. Of equal magnitudes, the first in memory are
    left out first. The magnitudes are sorted once for all counts.
    """
    flat = magnitudes.flatten()
    # NumPy sorts on the CPU ten times as fast as torch, which sorts the indices too.
    ascending = (
        torch.from_numpy(np.sort(flat.numpy())) if flat.device.type == "cpu" else flat.sort().values
    )
    for count in zeros:
        if not count:
            yield torch.ones_like(magnitudes, dtype=torch.bool)
            continue
        threshold = ascending[count - 1]
        kept = flat > threshold
        kept_ties = len(flat) - count - int(kept.sum())
        if kept_ties:
            kept[(flat == threshold).nonzero().flatten()[-kept_ties:]] = True
        yield kept.view(magnitudes.shape)


def mask_layers(model: Network, plan: Plan, scores: Scores | None = None) -> None:
    """Mask the least important ``round(value · numel)`` weights of each layer that ``plan`` names.

    ``scores`` gives the importance of the weights; ``None`` means their magnitude. The masks stay
    through training (``weight_orig`` and ``weight_mask``) until :func:`remove_masks`.
    Raises :class:`BadInput` for unknown layers and for values that would zero a whole layer.
    """
    layers = maskable_layers(model)
    for name, zeros in resolve_sparsity(plan, model.spec).items():
        LeastImportant.apply(
            layers[name], "weight", zeros, importance_scores=scores and scores[name]
        )  # type: ignore[no-untyped-call]


def mask_global(model: Network, sparsity: float, scores: Scores | None = None) -> None:
    """Mask the least important ``round(sparsity · numel)`` weights of all prunable layers together.

    Prunable are all convs and linears but the last. ``scores`` gives the importance of the weights;
    ``None`` means their magnitude. Raises :class:`BadInput` for a sparsity outside [0, 1), and
    :class:`WorkFailed` if a whole layer would be zero: no logit would depend on the image any more.
    """
    Plan.uniform(sparsity, (), "sparsity")
    layers = maskable_layers(model)
    prune.global_unstructured(
        [(layer, "weight") for layer in layers.values()],
        pruning_method=LeastImportant,
        importance_scores=scores
        and {(layers[name], "weight"): score for name, score in scores.items()},
        amount=float(sparsity),
    )
    refuse_dead(model, sparsity)


def refuse_dead(model: Network, sparsity: float) -> None:
    """Raise :class:`WorkFailed` if every weight of a prunable layer is zero.

    ``sparsity`` only appears in the message.
    """
    for name, layer in prunable_layers(model):
        if not layer.weight.any():
            raise _dead(name, sparsity)


def _check_ranking(model: Network, sparsity: float) -> None:
    """Raise :class:`WorkFailed` if the global ranking by magnitude would zero a whole layer.

    The masks of ``model`` count as zeros; nothing is changed.
    """
    magnitudes = {}
    for name, layer in prunable_layers(model):
        orig, mask = getattr(layer, "weight_orig", None), getattr(layer, "weight_mask", None)
        weight = layer.weight if orig is None or mask is None else orig * mask
        magnitudes[name] = weight.detach().abs().flatten()
    ranked = torch.cat(list(magnitudes.values()))
    (kept,) = magnitude_masks(ranked, [round(sparsity * ranked.numel())])
    sizes = [values.numel() for values in magnitudes.values()]
    for (name, values), mask in zip(magnitudes.items(), kept.split(sizes), strict=True):
        if not values[mask].any():
            raise _dead(name, sparsity)


def _dead(name: str, sparsity: float) -> WorkFailed:
    return WorkFailed(
        f"sparsity {sparsity:g}: every weight of {name} would be zero; give a smaller one"
    )


def maskable_layers(model: Network) -> dict[str, nn.Conv2d | nn.Linear]:
    """Return the prunable layers by name, after making their unmasked weights contiguous.

    torch's pruning flattens a weight by a view, which does not work in ``channels_last`` memory.
    """
    layers = dict(prunable_layers(model))
    for layer in layers.values():
        if not is_masked(layer):
            layer.weight.data = layer.weight.data.contiguous()
    return layers
