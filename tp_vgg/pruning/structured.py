"""Structured pruning removes channels in place, by torch-pruning's ``DependencyGraph``.

The realised widths are checked on every call; :func:`prune_channels` adds the equivalence check.
Nothing else in tp_vgg imports torch_pruning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tp_vgg.errors import BadInput, WorkFailed, first_of
from tp_vgg.files.checks import (
    MAX_MULTIPLE,
    MAX_SEED,
    choice,
    plain_number,
    type_name,
    whole_number,
)
from tp_vgg.network.doors import (
    UNMASK,
    check_built,
    check_kept,
    check_no_inference_tensors,
    network_of,
    unmasked_network,
)
from tp_vgg.network.masks import has_masks
from tp_vgg.network.mode import modes_kept
from tp_vgg.network.network import Network, prunable_layers, realised_spec
from tp_vgg.network.spec import Spec, narrowed
from tp_vgg.pruning.criteria import CRITERIA, check_importance
from tp_vgg.pruning.equivalence import (
    EQUIVALENCE_IMAGES,
    EQUIVALENCE_TOLERANCE,
    EquivalenceCheck,
    check_equivalence,
    double_copy,
)
from tp_vgg.pruning.ratios import Plan, resolve


@dataclass(frozen=True)
class PruneResult:
    """A prune result says which channels :func:`prune_channels` kept and how the check went."""

    kept: dict[str, list[int]]
    """Sorted indices of each pruned layer's kept channels, as numbered just before the call."""
    proof: EquivalenceCheck
    """The equivalence check of the pruned model, which held (the field keeps its first name)."""
    widths: dict[str, int] = field(default_factory=dict)
    """Number of channels of each pruned layer just before the call."""

    def __repr__(self) -> str:
        layers = [
            f"{name} {len(indices)} of {self.widths.get(name, '?')} channels"
            for name, indices in self.kept.items()
        ]
        kept = f"kept {first_of(layers, 4)}" if layers else "nothing removed"
        return f"<PruneResult: {kept}; {self.proof!r}>"


def prune_structured(
    model: Network,
    ratios: Plan | Mapping[str, float],
    *,
    importance: str = "l1",
    round_to: int = 1,
    seed: int = 0,
) -> PruneResult:
    """Remove ``floor(ratio · width + 0.5)`` channels of each named layer of ``model``, in place.

    The number of kept channels is rounded up to a multiple of ``round_to``. ``importance`` names a
    row of :data:`~tp_vgg.pruning.criteria.CRITERIA`. ``seed`` draws the noise images of the
    equivalence check and the scores of ``random``. See :func:`prune_channels`.

    Raises :class:`BadInput` and :class:`WorkFailed` as :func:`prune_channels` and
    :func:`~tp_vgg.pruning.ratios.resolve` do; :class:`BadInput`, which changes nothing, also for a
    model that is not in float32 or that its spec does not describe, and for a criterion that needs
    gradients without any.
    """
    choice("importance", importance, CRITERIA)
    if isinstance(plain_number(ratios), int | float):
        raise BadInput(
            'ratios: must be an object such as {"features.0": 0.5}, one ratio per layer, got '
            f"{type_name(plain_number(ratios))}; for all convs alike, give "
            "dict.fromkeys(model.spec.conv_names, 0.5)"
        )
    plan = ratios if isinstance(ratios, Plan) else Plan.of(ratios, "ratios")
    seed = whole_number("seed", seed, 0, MAX_SEED)
    multiple = whole_number("round_to", round_to, 1, MAX_MULTIPLE)
    target = resolve(plan, network_of(model).spec, multiple)
    unmasked_network(model)
    check_no_inference_tensors(model)
    check_kept(model)
    check_importance(importance, model.spec, plan.values)
    _check_gradients(model, importance, list(plan.values))
    check_built(model)
    size = model.spec.image_size
    noise = torch.randn(
        EQUIVALENCE_IMAGES, 3, size, size, generator=torch.Generator().manual_seed(seed)
    )
    with torch.inference_mode(False):  # torch-pruning traces with autograd
        return prune_channels(model, target, noise, importance, seed)


def prune_channels(
    model: Network, target: Spec, images: torch.Tensor, importance: str = "l1", seed: int = 0
) -> PruneResult:
    """Remove channels of ``model``, in place, until it has the widths of ``target``.

    ``images``: normalised floats [N, 3, S, S] for the equivalence check (the first 16 are used).
    ``taylor`` and ``hessian`` read the gradients that
    :func:`~tp_vgg.pruning.gradients.accumulate_gradients` (or any backward pass) left in the
    parameters. All layers are ranked before the first one is pruned; of equal scores, the lower
    index is kept. ``model.kept`` is updated.

    Raises :class:`BadInput` if the model has weight masks or the criterion does not fit it, and
    :class:`WorkFailed` if a score is not finite, torch-pruning does not reach the target widths, or
    the equivalence check fails. Do not use the model after a :class:`WorkFailed`.
    """
    if has_masks(model):
        raise BadInput(f"model: has weight masks; {UNMASK}")
    before, reference = model.spec, double_copy(model)
    kept = remove_channels(model, target, importance, seed)
    check = check_equivalence(reference, double_copy(model), kept, images)
    if not check.holds:
        raise WorkFailed(
            f"equivalence check failed: logits differ by {check.difference:.3g} (allowed: "
            f"{EQUIVALENCE_TOLERANCE:g} of the largest logit, {check.scale:.3g}); nothing is saved"
        )
    _record_kept(model, before, kept)
    return PruneResult(kept, check, {name: before.prunable[name] for name in kept})


def remove_channels(
    model: Network, target: Spec, importance: str = "l1", seed: int = 0
) -> dict[str, list[int]]:
    """Prune as :func:`prune_channels` does, without the equivalence check.

    Weight masks are not refused, and ``model.kept`` is not updated. Returns the sorted indices of
    the kept channels of each pruned layer.

    Raises :class:`BadInput` if the criterion does not fit the network, and :class:`WorkFailed` if a
    score is not finite or the realised widths are not the target's (torch-pruning may skip a layer
    silently).
    """
    graph = _graph(model)
    scores = _rank(graph, model, narrowed(model.spec, target), importance, seed)
    kept = {name: top_k(score, target.prunable[name]) for name, score in scores.items()}
    _remove_to(graph, model, kept, target)
    return kept


def keep_channels(model: Network, kept: Mapping[str, list[int]]) -> None:
    """Remove all channels of each named layer but the ``kept`` ones (sorted indices), in place.

    Raises :class:`WorkFailed` if the realised widths are not those of ``kept``.
    """
    target = model.spec.with_widths({name: len(indices) for name, indices in kept.items()})
    kept_of_narrowed = {name: kept[name] for name in narrowed(model.spec, target)}
    _remove_to(_graph(model), model, kept_of_narrowed, target)


def _remove_to(graph: Any, model: Network, kept: Mapping[str, list[int]], target: Spec) -> None:
    _remove(graph, model, kept)
    realised = realised_spec(model).prunable
    for name, width in target.prunable.items():
        if realised[name] != width:
            raise WorkFailed(
                f"{name}: torch-pruning left {realised[name]} channels instead of {width}; "
                "nothing is saved"
            )
    model.spec = target


def rank(
    model: Network, layers: list[str], importance: str = "l1", seed: int = 0
) -> dict[str, torch.Tensor]:
    """Return the importance score of every channel of each of ``layers``; higher is kept.

    The scores are floats [width] on the CPU, by layer name; the model is not changed. Raises
    :class:`BadInput` if the criterion does not fit the network, and :class:`WorkFailed` if a score
    is not finite.
    """
    return _rank(_graph(model), model, layers, importance, seed)


def _rank(
    graph: Any, model: Network, layers: list[str], importance: str, seed: int
) -> dict[str, torch.Tensor]:
    import torch_pruning as tp

    check_importance(importance, model.spec, layers)
    _check_gradients(model, importance, layers)
    scorer = getattr(tp.importance, CRITERIA[importance].scorer)(**CRITERIA[importance].options)
    scores = {}
    with torch.random.fork_rng(devices=[]):
        for position, (name, layer) in enumerate(prunable_layers(model)):
            if name in layers:
                # A layer's random scores must not depend on the other layers that are ranked.
                torch.manual_seed(seed + 1_000_003 * position)
                group = graph.get_pruning_group(
                    layer, _prune_out(tp, layer), list(range(layer.weight.shape[0]))
                )
                score = scorer(group)
                if (
                    score is None
                    or score.shape != (layer.weight.shape[0],)
                    or not score.isfinite().all()
                ):
                    raise WorkFailed(
                        f"{name}: importance {importance} gave no finite score for every channel; "
                        "nothing is saved"
                    )
                scores[name] = score.detach().cpu()
    return scores


def _check_gradients(model: Network, importance: str, layers: Sequence[str]) -> None:
    """Raise :class:`BadInput` if the criterion reads gradients and a ranked layer has none."""
    if not CRITERIA[importance].needs_gradients:
        return
    for name in layers:
        if model.get_submodule(name).get_parameter("weight").grad is None:
            raise BadInput(
                f"importance: {importance} reads gradients, and {name} has none; first run "
                "loss.backward(), or tp_vgg.pruning.gradients.accumulate_gradients"
                "(model, split, normalisation)"
            )


def _record_kept(model: Network, before: Spec, kept: Mapping[str, list[int]]) -> None:
    """Update ``model.kept``: the dense baseline's channels left by this and earlier prunings."""
    everything = {name: list(range(width)) for name, width in before.prunable.items()}
    earlier = {**everything, **model.kept}
    dense = {**before.prunable, **model.meta.get("dense_widths", {})}
    for name, indices in model.kept.items():
        dense[name] = max(dense[name], indices[-1] + 1)  # some files lack the dense widths
    model.kept = {
        name: [earlier[name][i] for i in kept.get(name, everything[name])] for name in everything
    }
    model.meta = {**model.meta, "dense_widths": dense}


def top_k(score: torch.Tensor, count: int) -> list[int]:
    """Return the sorted indices of the ``count`` highest scores; ties go to the lower index."""
    order = torch.argsort(score, descending=True, stable=True)[:count]
    return sorted(order.tolist())


def _remove(graph: Any, model: Network, kept: Mapping[str, list[int]]) -> None:
    import torch_pruning as tp

    for name, layer in prunable_layers(model):
        if name not in kept:
            continue
        removed = sorted(set(range(layer.weight.shape[0])) - set(kept[name]))
        group = graph.get_pruning_group(layer, _prune_out(tp, layer), removed)
        if not graph.check_pruning_group(group):
            raise WorkFailed(
                f"{name}: torch-pruning refuses to remove {len(removed)} channels; nothing is saved"
            )
        group.prune()


def _graph(model: Network) -> Any:
    """Return torch-pruning's dependency graph of ``model``.

    Tracing needs ``requires_grad`` everywhere and changes the train/eval mode; both are restored.
    """
    import torch_pruning as tp

    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    size = model.spec.image_size
    device = next(model.parameters()).device
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with torch.enable_grad(), modes_kept(model):
            return tp.DependencyGraph().build_dependency(
                model, example_inputs=torch.zeros(1, 3, size, size, device=device)
            )
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _prune_out(tp: Any, layer: nn.Conv2d | nn.Linear) -> Any:
    return (
        tp.prune_conv_out_channels if isinstance(layer, nn.Conv2d) else tp.prune_linear_out_channels
    )
