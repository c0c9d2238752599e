"""This module renders sweeps and plans as text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tp_vgg.network.spec import Spec
from tp_vgg.planning.allocation import PlanResult
from tp_vgg.report.text_table import text_table
from tp_vgg.sensitivity.table import Sensitivity

_GAP_UNITS = {
    "drop": "points",
    "params": "parameters",
    "macs": "MACs",
    "latency": "µs",
    "sparsity": "weights that are not zero",
}
"""Unit of what a plan minimised."""


def render_plan(plan: PlanResult) -> str:
    """Render a plan as a table with one line per layer, and its prediction below.

    ``kept`` is the fraction of the layer's channels or weights that is left. ``drop alone`` is the
    predicted drop in percentage points if only this layer is pruned. Intervals are the narrowest at
    95 % that drops measured on as many images can have
    (:func:`~tp_vgg.planning.drop_margin.drop_interval`).
    """
    structured, prediction = plan.kind == "structured", plan.prediction
    rows = [
        [
            row.layer,
            f"{row.ratio:g}",
            f"{row.before:,} → {row.after:,}",
            f"{row.after / row.before:.3f}×",
            f"{row.drop:+.2f}",
        ]
        for row in plan.layers
    ]
    columns = ["ratio", "channels"] if structured else ["sparsity", "weights"]
    lines = [text_table(["layer", *columns, "kept", "drop alone"], rows)]
    budget = ", ".join(f"{name}={value:g}" for name, value in plan.budget.items())
    sizes = [
        f"params {prediction.params_share:.4f}× ({prediction.params:,})",
        f"MACs {prediction.macs_share:.4f}× ({prediction.macs:,})",
    ]
    if not structured:
        sizes = [f"sparsity {prediction.sparsity:.4f}", *(f"non-zero {size}" for size in sizes)]
    if prediction.latency_share is not None and plan.profile is not None:
        profile = plan.profile
        sizes.append(
            f"time of the convs {prediction.latency_share:.3f}× "
            f"({profile['device']}, {profile['dtype']}, batch {profile['batch_size']})"
        )
    lines.append(f"budget {budget}; predicted: {', '.join(sizes)}")
    split = f"{plan.sweep['split']} images" if plan.sweep.get("split") else "images"
    lines.append(
        f"predicted drop before fine-tuning: {prediction.drop:+.2f} points"
        f"{_interval(prediction.drop_low, prediction.drop_high)},"
        f" to {prediction.accuracy:.2f} % (on {plan.sweep['n']} {split}, by the sweep)"
    )
    return "\n".join([*lines, *_choice(plan)])


def _choice(plan: PlanResult) -> list[str]:
    """Return the lines that say what was minimised, and why this plan was taken."""
    best = (
        f"the best plan is at most {plan.gap:.3g} {_GAP_UNITS[plan.minimised]} lower"
        if plan.gap
        else "no plan within the budget predicts less"
    )
    minimised = f"minimised: {plan.minimised}; {best}"
    least = plan.least_drop
    if least is None:
        return [minimised]
    prediction, smallest, n = plan.prediction, least.prediction, plan.sweep["n"]
    share = least.macs_gap * prediction.macs_share / prediction.macs
    more_macs = f"over {math.ceil(1e6 * share) / 1e6:.6f}× more" if least.macs_gap else "more"
    most = f"no plan within {least.margin:.2g} points of it keeps {more_macs} MACs"
    if (smallest.macs, smallest.params) == (prediction.macs, prediction.params):
        return [minimised, f"taken: the plan with that drop; {most}"]
    return [
        minimised,
        f"smallest predicted drop within the budget: {smallest.drop:+.2f} points"
        f"{_interval(smallest.drop_low, smallest.drop_high)}, at MACs {smallest.macs_share:.4f}×,"
        f" params {smallest.params_share:.4f}×",
        f"taken: {least.more:+.2f} points more{_interval(least.more_low, least.more_high)}, which"
        f" {n} images can't tell from none, at MACs {prediction.macs_share:.4f}×; {most}",
    ]


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{low:+.2f}, {high:+.2f}]"


def render_sensitivity(table: Sensitivity) -> str:
    """Render a sweep: one line per layer with its drops in percentage points, by rising ratio.

    A screened sweep also shows the fraction of images that were classified again in fp32.
    """
    base = table.baseline
    rows = []
    for layer in table.layers:
        points = table.of_layer(layer)
        redone = sum(point.redone for point in points) / sum(point.n for point in points)
        rows.append(
            [
                layer,
                *(f"{point.drop:+.2f}" for point in points),
                *([f"{redone:.1%}"] if table.precision == "screened" else []),
            ]
        )
    header = [
        f"{table.kind} drop",
        *(f"{point.ratio:g}" for point in table.of_layer(table.layers[0])),
    ]
    if table.precision == "screened":
        header.append("redone in fp32")
    dense = (
        f"dense: {base.accuracy:.2f} % [{base.low:.2f}, {base.high:.2f}] of {base.n} images;"
        f" drops in percentage points, {table.precision}"
    )
    return f"{dense}\n{text_table(header, rows)}"


def render_dry_run(spec: Spec, target: Spec, ratios: Mapping[str, float]) -> str:
    """Render the channels, params and MACs of each layer before and after a structured prune.

    ``spec`` is the dense network and ``target`` the network after it, with the same layers.
    ``ratios`` are the requested ones, by layer; rounding may change them in ``target``.
    """
    rows = [
        [
            before.name,
            f"{ratios[before.name]:g}" if before.name in ratios else "-",
            f"{before.out_width} → {after.out_width}",
            f"{before.params:,} → {after.params:,}",
            f"{before.macs:,} → {after.macs:,}",
        ]
        for before, after in zip(spec.rows, target.rows, strict=True)
    ]
    shares = (
        f"params {target.params() / spec.params():.3f}×, MACs {target.macs() / spec.macs():.3f}×"
    )
    params, macs = (
        f"{spec.params():,} → {target.params():,}",
        f"{spec.macs():,} → {target.macs():,}",
    )
    return text_table(
        ["layer", "ratio", "channels", "params", "MACs"],
        [*rows, ["total", "", shares, params, macs]],
    )
