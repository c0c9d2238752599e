"""Structured pruning removes channels in place, by torch-pruning's ``DependencyGraph``.

The realised widths are checked on every call; :func:`prune_channels` adds the equivalence check.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from tp_vgg.errors import BadInput, WorkFailed, first_of
from tp_vgg.evaluation.images import Unlabelled
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
from tp_vgg.network.network import Network, prunable_layers, realised_spec
from tp_vgg.network.spec import Spec, narrowed
from tp_vgg.pruning.channel_graph import ChannelGraph
from tp_vgg.pruning.criteria import CRITERIA, check_importance
from tp_vgg.pruning.equivalence import (
    EQUIVALENCE_IMAGES,
    EQUIVALENCE_TOLERANCE,
    EquivalenceCheck,
    check_equivalence,
    double_copy,
)
from tp_vgg.pruning.ranking import check_gradients, rank, ranking_sample, top_k
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
    images: Unlabelled | None = None,
) -> PruneResult:
    """Remove ``floor(ratio · width + 0.5)`` channels of each named layer of ``model``, in place.

    The number of kept channels is rounded up to a multiple of ``round_to``. ``importance`` names a
    row of :data:`~tp_vgg.pruning.criteria.CRITERIA`. ``seed`` draws the noise images of the
    equivalence check and the scores of ``random``. ``images``: training images for ``obs``, as
    :func:`tp_vgg.repair` takes them; ``seed`` draws 1,000 of them. The other criteria look at none.
    See :func:`prune_channels`.

    Raises :class:`BadInput` and :class:`WorkFailed` as :func:`prune_channels` and
    :func:`~tp_vgg.pruning.ratios.resolve` do; :class:`BadInput`, which changes nothing, also for a
    model that is not in float32 or that its spec does not describe, and for a criterion that needs
    gradients or images without any.
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
    check_gradients(model, importance, list(plan.values))
    check_built(model)
    sample = ranking_sample("images", model, importance, images, seed)
    size = model.spec.image_size
    noise = torch.randn(
        EQUIVALENCE_IMAGES, 3, size, size, generator=torch.Generator().manual_seed(seed)
    )
    with torch.inference_mode(False):  # torch-pruning traces with autograd
        return prune_channels(model, target, noise, importance, seed, sample)


def prune_channels(
    model: Network,
    target: Spec,
    images: torch.Tensor,
    importance: str = "l1",
    seed: int = 0,
    sample: torch.Tensor | None = None,
    *,
    quiet: bool = True,
) -> PruneResult:
    """Remove channels of ``model``, in place, until it has the widths of ``target``.

    ``images``: normalised floats [N, 3, S, S] for the equivalence check (the first 16 are used).
    ``taylor`` and ``hessian`` read the gradients that
    :func:`~tp_vgg.pruning.gradients.accumulate_gradients` (or any backward pass) left in the
    parameters; ``obs`` looks at ``sample`` (:func:`~tp_vgg.pruning.ranking.ranking_sample`). All
    layers are ranked before the first one is pruned; of equal scores, the lower index is kept.
    ``model.kept`` is updated. ``quiet``: no progress bar.

    Raises :class:`BadInput` if the model has weight masks or the criterion does not fit it, and
    :class:`WorkFailed` if a score is not finite, torch-pruning does not reach the target widths, or
    the equivalence check fails. Do not use the model after a :class:`WorkFailed`.
    """
    if has_masks(model):
        raise BadInput(f"model: has weight masks; {UNMASK}")
    before, reference = model.spec, double_copy(model)
    kept = remove_channels(model, target, importance, seed, sample, quiet=quiet)
    check = check_equivalence(reference, double_copy(model), kept, images)
    if not check.holds:
        raise WorkFailed(
            f"equivalence check failed: logits differ by {check.difference:.3g} (allowed: "
            f"{EQUIVALENCE_TOLERANCE:g} of the largest logit, {check.scale:.3g}); nothing is saved"
        )
    _record_kept(model, before, kept)
    return PruneResult(kept, check, {name: before.prunable[name] for name in kept})


def remove_channels(
    model: Network,
    target: Spec,
    importance: str = "l1",
    seed: int = 0,
    sample: torch.Tensor | None = None,
    *,
    quiet: bool = True,
) -> dict[str, list[int]]:
    """Prune as :func:`prune_channels` does, without the equivalence check.

    Weight masks are not refused, and ``model.kept`` is not updated. Returns the sorted indices of
    the kept channels of each pruned layer.

    Raises :class:`BadInput` if the criterion does not fit the network, and :class:`WorkFailed` if a
    score is not finite or the realised widths are not the target's (torch-pruning may skip a layer
    silently).
    """
    graph = ChannelGraph(model)
    layers = narrowed(model.spec, target)
    scores = rank(model, layers, importance, seed, sample, graph=graph, quiet=quiet)
    kept = {name: top_k(score, target.prunable[name]) for name, score in scores.items()}
    _remove_to(graph, model, kept, target)
    return kept


def keep_channels(model: Network, kept: Mapping[str, list[int]]) -> None:
    """Remove all channels of each named layer but the ``kept`` ones (sorted indices), in place.

    Raises :class:`WorkFailed` if the realised widths are not those of ``kept``.
    """
    target = model.spec.with_widths({name: len(indices) for name, indices in kept.items()})
    kept_of_narrowed = {name: kept[name] for name in narrowed(model.spec, target)}
    _remove_to(ChannelGraph(model), model, kept_of_narrowed, target)


def _remove_to(
    graph: ChannelGraph, model: Network, kept: Mapping[str, list[int]], target: Spec
) -> None:
    _remove(graph, model, kept)
    realised = realised_spec(model).prunable
    for name, width in target.prunable.items():
        if realised[name] != width:
            raise WorkFailed(
                f"{name}: torch-pruning left {realised[name]} channels instead of {width}; "
                "nothing is saved"
            )
    model.spec = target


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


def _remove(graph: ChannelGraph, model: Network, kept: Mapping[str, list[int]]) -> None:
    for name, layer in prunable_layers(model):
        if name not in kept:
            continue
        removed = sorted(set(range(layer.weight.shape[0])) - set(kept[name]))
        if not graph.remove(layer, removed):
            raise WorkFailed(
                f"{name}: torch-pruning refuses to remove {len(removed)} channels; nothing is saved"
            )
