"""Channel removal in place, by torch-pruning's DependencyGraph, checked and proved on every call.

Nothing else in tp_vgg imports torch_pruning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tp_vgg.errors import BadInput, WorkFailed
from tp_vgg.network.masks import is_masked
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
    """What :func:`prune_channels` did: indices kept in each pruned layer (into the model just before), and the proof."""

    kept: dict[str, list[int]]
    proof: EquivalenceCheck


def prune_structured(
    model: Network,
    ratios: Plan | Mapping[str, float],
    *,
    importance: str = "l1",
    round_to: int = 1,
    seed: int = 0,
) -> PruneResult:
    """Remove ``floor(ratio · width + 0.5)`` channels of each named layer of ``model``, in place: :func:`prune_channels` with
    a plan for a target and seeded noise for the proof's images. Raises as :func:`prune_channels` and :func:`resolve` do.
    """
    plan = ratios if isinstance(ratios, Plan) else Plan.of(ratios, "ratios")
    size = model.spec.image_size
    noise = torch.randn(
        EQUIVALENCE_IMAGES, 3, size, size, generator=torch.Generator().manual_seed(seed)
    )
    return prune_channels(model, resolve(plan, model.spec, round_to), noise, importance, seed)


def prune_channels(
    model: Network, target: Spec, images: torch.Tensor, importance: str = "l1", seed: int = 0
) -> PruneResult:
    """Remove channels of ``model``, in place, until it has the widths of ``target``.

    ``images``: normalised floats [N, 3, S, S] for the equivalence proof (the first 16 are used).
    ``taylor`` and ``hessian`` read the gradients that :func:`~tp_vgg.pruning.gradients.accumulate_gradients` (or any backward pass) left in the parameters. All layers are ranked on the weights as they
    come, then pruned; ties keep the lower index. ``model.kept`` is brought up to date.

    Raises :class:`BadInput` where the criterion does not fit the network, :class:`WorkFailed` where torch-pruning did not
    reach the target widths or the proof fails: the model is then not to be used.
    """
    _refuse_masks(model)
    before, reference = model.spec, double_copy(model)
    kept = remove_channels(model, target, importance, seed)
    proof = check_equivalence(reference, double_copy(model), kept, images)
    if not proof.holds:
        raise WorkFailed(
            f"equivalence proof failed: logits differ by {proof.difference:.3g} at a scale of {proof.scale:.3g} "
            f"(allowed {EQUIVALENCE_TOLERANCE:g} of it); nothing is kept"
        )
    _record_kept(model, before, kept)
    return PruneResult(kept, proof)


def remove_channels(
    model: Network, target: Spec, importance: str = "l1", seed: int = 0
) -> dict[str, list[int]]:
    """:func:`prune_channels` without its proof: one graph, every layer ranked, then pruned. Returns the kept indices by layer.

    Raises :class:`WorkFailed` unless the realised widths are the target's (torch-pruning skips silently).
    """
    graph = _graph(model)
    scores = _rank(graph, model, narrowed(model.spec, target), importance, seed)
    kept = {name: top_k(score, target.prunable[name]) for name, score in scores.items()}
    _remove_to(graph, model, kept, target)
    return kept


def keep_channels(model: Network, kept: Mapping[str, list[int]]) -> None:
    """Remove all channels of the named layers but the ``kept`` ones (sorted indices), in place. Raises as :func:`remove_channels` does."""
    target = model.spec.with_widths({name: len(indices) for name, indices in kept.items()})
    fewer = {name: kept[name] for name in narrowed(model.spec, target)}
    _remove_to(_graph(model), model, fewer, target)


def _remove_to(graph: Any, model: Network, kept: Mapping[str, list[int]], target: Spec) -> None:
    _remove(graph, model, kept)
    realised = realised_spec(model).prunable
    for name, width in target.prunable.items():
        if realised[name] != width:
            raise WorkFailed(
                f"{name}: torch-pruning left {realised[name]} channels where {width} were asked for; nothing is kept"
            )
    model.spec = target


def rank(
    model: Network, layers: list[str], importance: str = "l1", seed: int = 0
) -> dict[str, torch.Tensor]:
    """Score [width] of every channel of ``layers`` (float, higher is kept), each on its full-width group."""
    return _rank(_graph(model), model, layers, importance, seed)


def _rank(
    graph: Any, model: Network, layers: list[str], importance: str, seed: int
) -> dict[str, torch.Tensor]:
    import torch_pruning as tp

    check_importance(importance, model.spec, layers)
    scorer = getattr(tp.importance, CRITERIA[importance].scorer)(**CRITERIA[importance].options)
    scores = {}
    with torch.random.fork_rng(devices=[]):
        for place, (name, layer) in enumerate(prunable_layers(model)):
            if name in layers:
                torch.manual_seed(
                    seed + 1_000_003 * place
                )  # a layer's random scores are the same whatever else is ranked
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
                        f"{name}: importance {importance} gave no finite score for every channel; nothing is kept"
                    )
                scores[name] = score.detach().cpu()
    return scores


def _record_kept(model: Network, before: Spec, kept: Mapping[str, list[int]]) -> None:
    """Note in ``model.kept`` which channels of the dense baseline are left, through earlier prunings too."""
    everything = {name: list(range(width)) for name, width in before.prunable.items()}
    earlier = {**everything, **model.kept}
    dense = {**before.prunable, **model.meta.get("dense_widths", {})}
    for name, indices in model.kept.items():
        dense[name] = max(dense[name], indices[-1] + 1)  # a file that does not say how wide it was
    model.kept = {
        name: [earlier[name][i] for i in kept.get(name, everything[name])] for name in everything
    }
    model.meta = {**model.meta, "dense_widths": dense}


def top_k(score: torch.Tensor, count: int) -> list[int]:
    """Sorted indices of the ``count`` highest scores; of equal ones the lower index."""
    order = torch.argsort(score, descending=True, stable=True)[:count]
    return sorted(order.tolist())


def _remove(graph: Any, model: Network, kept: Mapping[str, list[int]]) -> None:
    import torch_pruning as tp

    for name, layer in prunable_layers(model):
        if name not in kept:
            continue
        gone = sorted(set(range(layer.weight.shape[0])) - set(kept[name]))
        group = graph.get_pruning_group(layer, _prune_out(tp, layer), gone)
        if not graph.check_pruning_group(group):
            raise WorkFailed(
                f"{name}: torch-pruning refuses to remove {len(gone)} channels; nothing is kept"
            )
        group.prune()


def _refuse_masks(model: Network) -> None:
    if any(is_masked(module) for module in model.modules()):
        raise BadInput(
            "the model has weight masks; remove them (torch.nn.utils.prune.remove) before removing channels"
        )


def _graph(model: Network) -> Any:
    """torch-pruning's graph of ``model``. Tracing needs gradients, and leaves eval mode: mode and flags are put back."""
    import torch_pruning as tp

    training = model.training
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    size = model.spec.image_size
    device = next(model.parameters()).device
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            return tp.DependencyGraph().build_dependency(
                model, example_inputs=torch.zeros(1, 3, size, size, device=device)
            )
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        model.train(training)


def _prune_out(tp: Any, layer: nn.Conv2d | nn.Linear) -> Any:
    return (
        tp.prune_conv_out_channels if isinstance(layer, nn.Conv2d) else tp.prune_linear_out_channels
    )
