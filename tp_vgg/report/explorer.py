"""This module gathers the data of the page's ratio explorer as JSON.

The explorer works with the same tables as `plan`. Its script searches plans for budgets itself,
with a bound on what it can have missed, so that no plan is made when the page is written.

This module does not import torch.
"""

from __future__ import annotations

from typing import Any

from tp_vgg.latency.profile import Staircase
from tp_vgg.network.spec import Spec
from tp_vgg.planning.allocation import PlanResult
from tp_vgg.planning.loss_curves import LossCurves
from tp_vgg.sensitivity.table import Sensitivity

ROUND_TO = 8
"""The sliders keep multiples of this number of channels if there is no plan: `plan`'s default."""


def explorer_data(
    spec: Spec,
    sweep: Sensitivity | None,
    profile: Staircase | None,
    plan: PlanResult | None,
) -> dict[str, Any]:
    """Return all the data that the page's script reads.

    ``rows`` lists every conv and linear layer of the dense network. In a row, ``reads`` is the
    number of elements that the layer reads for each channel of the layer before; it is above 1
    behind a flattened map. Without a sweep, ``accuracy``, ``chance`` and ``n`` (images) are
    ``None``, and ``curves`` is empty. Without a profile ``time`` is ``None``, without a plan
    ``plan`` is.
    ``round_to``: the number of channels whose multiples the sliders keep at first.
    """
    rows = [
        {
            "name": row.name,
            "prunable": row.name in spec.prunable,
            "in": row.in_width,
            "out": row.out_width,
            "reads": row.reads,
            "side": row.side,
            "weights": row.weights,
            "params": row.params,
        }
        for row in spec.rows
    ]
    curves = LossCurves.of(sweep) if sweep is not None else None
    return {
        "rows": rows,
        "accuracy": curves.accuracy if curves else None,
        "chance": curves.chance if curves else None,
        "n": sweep.baseline.n if sweep is not None else None,
        "curves": {
            layer: {"levels": curves.levels[layer], "drops": curves.drops[layer]}
            for layer in curves.levels
        } if curves else {},
        "time": _times(profile) if profile is not None else None,
        "plan": kept_by(plan) if plan is not None else None,
        "round_to": plan.round_to if plan is not None else ROUND_TO,
    }  # fmt: skip


def kept_by(plan: PlanResult) -> dict[str, int]:
    """Return the number of channels that a structured plan keeps in each layer."""
    return {row.layer: row.after for row in plan.layers}


def _times(profile: Staircase) -> dict[str, Any]:
    """Return the times of each conv as a grid of microseconds [input widths, output widths].

    The grid holds the output widths that were timed at every input width of the conv.
    """
    grids = {layer: profile.grid(layer) for layer in profile.layers}
    layers = {
        layer: {"ins": ins, "outs": outs, "us": grid} for layer, (ins, outs, grid) in grids.items()
    }
    where = f"{profile.environment['device']}, {profile.dtype}, batch {profile.batch_size}"
    return {"where": where, "layers": layers}
