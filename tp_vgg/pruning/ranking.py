"""Channels are ranked here by any criterion of :data:`~tp_vgg.pruning.criteria.CRITERIA`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from tp_vgg.errors import BadInput, WorkFailed
from tp_vgg.evaluation.images import Unlabelled
from tp_vgg.network.network import Network, prunable_layers
from tp_vgg.pruning.channel_graph import ChannelGraph
from tp_vgg.pruning.criteria import CRITERIA, check_importance
from tp_vgg.pruning.obs import channel_scores
from tp_vgg.pruning.repair_sample import repair_sample
from tp_vgg.pruning.repairs import REPAIR_IMAGES


def ranking_sample(
    name: str, model: Network, importance: str, images: Unlabelled | None, seed: int
) -> torch.Tensor | None:
    """Return the sample of ``images`` at which the criterion looks; ``None`` if it needs none.

    ``name``: of the argument. The sample is normalised fp32 [N, 3, S, S], drawn by ``seed`` as
    :func:`tp_vgg.repair` draws it. Raises :class:`BadInput` if the criterion needs images and there
    are none, or they do not fit.
    """
    if not CRITERIA[importance].needs_images:
        return None
    if images is None:
        raise BadInput(
            f"{name}: importance {importance} looks at unlabelled images; give training images"
        )
    return repair_sample(name, images, model, REPAIR_IMAGES, seed)


def rank(
    model: Network,
    layers: list[str],
    importance: str = "l1",
    seed: int = 0,
    sample: torch.Tensor | None = None,
    *,
    graph: ChannelGraph | None = None,
    quiet: bool = True,
) -> dict[str, torch.Tensor]:
    """Return the importance score of every channel of each of ``layers``; higher is kept.

    The scores are floats [width] on the CPU, by layer name; the model is not changed. ``sample``:
    what :func:`ranking_sample` returns. ``graph``: that of ``model``, if there is one already.
    ``quiet``: no progress bar. Raises :class:`BadInput` if the criterion does not fit the network,
    and :class:`WorkFailed` if a score is not finite.
    """
    check_importance(importance, model.spec, layers)
    check_gradients(model, importance, layers)
    found: Mapping[str, torch.Tensor | None]
    if CRITERIA[importance].needs_images:
        assert sample is not None, "ranking_sample comes before"
        found = channel_scores(model, layers, sample, seed, quiet=quiet)
    else:
        found = _scores(graph or ChannelGraph(model), model, layers, importance, seed)
    scores = {}
    for name, score in found.items():
        width = model.spec.prunable[name]
        if score is None or score.shape != (width,) or not score.isfinite().all():
            raise WorkFailed(
                f"{name}: importance {importance} gave no finite score for every channel; "
                "nothing is saved"
            )
        scores[name] = score
    return scores


def _scores(
    graph: ChannelGraph, model: Network, layers: list[str], importance: str, seed: int
) -> dict[str, torch.Tensor | None]:
    scores = {}
    with torch.random.fork_rng(devices=[]):
        for position, (name, layer) in enumerate(prunable_layers(model)):
            if name in layers:
                # A layer's random scores must not depend on the other layers that are ranked.
                torch.manual_seed(seed + 1_000_003 * position)
                scores[name] = graph.scores(layer, importance)
    return scores


def check_gradients(model: Network, importance: str, layers: Sequence[str]) -> None:
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


def top_k(score: torch.Tensor, count: int) -> list[int]:
    """Return the sorted indices of the ``count`` highest scores; ties go to the lower index."""
    order = torch.argsort(score, descending=True, stable=True)[:count]
    return sorted(order.tolist())
