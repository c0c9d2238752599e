"""This module gathers the data of the page's ratio explorer as JSON.

The explorer works with the same tables as `plan`.

This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tp_vgg.errors import BadInput
from tp_vgg.latency.profile import Staircase
from tp_vgg.machine.console import progress_bar
from tp_vgg.network.spec import Spec
from tp_vgg.planning.allocation import PlanResult
from tp_vgg.planning.loss_curves import LossCurves
from tp_vgg.planning.make_plan import make_plan
from tp_vgg.sensitivity.table import Sensitivity

BUDGETS: tuple[Mapping[str, float], ...] = tuple(
    {"macs": share} for share in (0.75, 0.5, 0.35, 0.25, 0.15)
)
"""Budgets that the page offers, as fractions of the dense model's MACs.

Their plans are made together with the page, so a click gives the best plan, not an approximation.
"""


def explorer_data(
    spec: Spec,
    sweep: Sensitivity | None,
    profile: Staircase | None,
    plan: PlanResult | None,
    *,
    quiet: bool = True,
) -> dict[str, Any]:
    """Return all the data that the page's script reads.

    ``rows`` lists every conv and linear layer of the dense network. In a row, ``reads`` is the
    number of elements that the layer reads for each channel of the layer before; it is above 1
    behind a flattened map. Without a sweep, ``accuracy`` and ``chance`` are ``None``, and
    ``curves`` and ``budgets`` are empty. Without a profile ``time`` is ``None``, without a plan
    ``plan`` is.
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
    # Coarser steps for wide layers: with at most about 512 widths each, the searches stay short.
    round_to = max(plan.round_to if plan else 8, max(spec.prunable.values()) // 512)
    return {
        "rows": rows,
        "accuracy": curves.accuracy if curves else None,
        "chance": curves.chance if curves else None,
        "curves": {
            layer: {"levels": curves.levels[layer], "drops": curves.drops[layer]}
            for layer in curves.levels
        } if curves else {},
        "time": _times(profile) if profile is not None else None,
        "plan": kept_by(plan) if plan is not None else None,
        "budgets": _budgets(sweep, round_to, quiet) if sweep else [],
    }  # fmt: skip


def kept_by(plan: PlanResult) -> dict[str, int]:
    """Return the number of channels that a structured plan keeps in each layer."""
    return {row.layer: row.after for row in plan.layers}


def _budgets(sweep: Sensitivity, round_to: int, quiet: bool) -> list[dict[str, Any]]:
    """Return the plan for each of ``BUDGETS`` that can be met within the sweep's levels."""
    plans = []
    for budget in progress_bar("plans for the page", BUDGETS, unit="plan", quiet=quiet):
        try:
            plan = make_plan(sweep, budget, round_to=round_to)
        except BadInput:
            continue
        label = ", ".join(f"{name}={value:g}" for name, value in budget.items())
        plans.append({"label": label, "kept": kept_by(plan)})
    return plans


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
