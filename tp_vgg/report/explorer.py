"""What the ratio explorer of the page reckons with, as JSON: the same tables that `plan` uses (no torch)."""

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
"""Solved when the page is made, so that a click gives the best plan and not an approximation."""


def explorer_data(
    spec: Spec,
    sweep: Sensitivity | None,
    profile: Staircase | None,
    plan: PlanResult | None,
    *,
    quiet: bool = True,
) -> dict[str, Any]:
    """Everything that the page's script reads.

    ``rows``: every conv and linear of the dense network; ``reads``: elements that the layer reads for each channel of the one before it
    (over 1 behind a flattened map). ``curves``, ``time`` and ``budgets`` are empty or ``None`` where nothing was swept or profiled.
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
        "curves": {
            layer: {"levels": curves.levels[layer], "drops": curves.drops[layer]} for layer in curves.levels
        } if curves else {},
        "time": _times(profile) if profile is not None else None,
        "plan": kept_by(plan) if plan is not None else None,
        "budgets": _budgets(sweep, max(plan.round_to if plan else 8, max(spec.prunable.values()) // 512), quiet) if sweep else [],
    }  # fmt: skip


def kept_by(plan: PlanResult) -> dict[str, int]:
    """Channels that a plan leaves, by layer."""
    return {row.layer: row.after for row in plan.layers}


def _budgets(sweep: Sensitivity, round_to: int, quiet: bool) -> list[dict[str, Any]]:
    """The plan for each of ``BUDGETS`` that the sweep allows."""
    found = []
    for budget in progress_bar("plans for the page", BUDGETS, unit="plan", quiet=quiet):
        try:
            plan = make_plan(sweep, budget, round_to=round_to)
        except BadInput:
            continue
        label = ", ".join(f"{name}={value:g}" for name, value in budget.items())
        found.append({"label": label, "kept": kept_by(plan)})
    return found


def _times(profile: Staircase) -> dict[str, Any]:
    """The grid of each conv's times, microseconds [in, out], over the widths that all its input widths have."""
    grids = {layer: profile.grid(layer) for layer in profile.layers}
    layers = {
        layer: {"ins": ins, "outs": outs, "us": grid} for layer, (ins, outs, grid) in grids.items()
    }
    where = f"{profile.environment['device']}, {profile.dtype}, batch {profile.batch_size}"
    return {"where": where, "layers": layers}
