"""This module renders sweeps and plans as text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tp_vgg.machine.console import wrapped
from tp_vgg.network.families import spec_from_dict
from tp_vgg.network.spec import Spec
from tp_vgg.planning.allocation import PlanResult
from tp_vgg.pruning.repairs import REPAIR_WORDS
from tp_vgg.report.text_table import GAP, text_table
from tp_vgg.sensitivity.table import Sensitivity

_GAP_UNITS = {
    "drop": "points",
    "params": "parameters",
    "macs": "MACs",
    "latency": "µs",
    "sparsity": "weights that are not zero",
}
"""Unit of what a plan minimised."""


def render_plan(plan: PlanResult, *, width: int | None = None) -> str:
    """Render a plan as a table with one line per layer, and its prediction below.

    ``kept`` is the fraction of the layer's channels or weights that is left. ``drop alone`` is the
    predicted drop in percentage points if only this layer is pruned. Intervals are the narrowest at
    95 % that drops measured on as many images can have
    (:func:`~tp_vgg.planning.drop_margin.drop_interval`). ``width``: the most characters of a line;
    ``None`` is no limit.
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
    table = text_table(["layer", *columns, "kept", "drop alone"], rows, width)
    lines = []
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
    stage = "before fine-tuning" if plan.repair == "none" else "after the repair"
    split = f"{plan.sweep['split']} images" if plan.sweep.get("split") else "images"
    lines.append(
        f"predicted drop {stage}: {prediction.drop:+.2f} points"
        f"{_interval(prediction.drop_low, prediction.drop_high)},"
        f" to {prediction.accuracy:.2f} % (on {plan.sweep['n']} {split}, by the sweep)"
    )
    lines += _choice(plan)
    return "\n".join([table, *(wrapped(line, width) for line in lines)])


def _choice(plan: PlanResult) -> list[str]:
    """Return the lines that say what was minimised, and why this plan was taken."""
    best = (
        f"the best plan is at most {plan.gap:.3g} {_GAP_UNITS[plan.minimised]} lower"
        if plan.gap
        else "no plan within the budget predicts less"
    )
    if plan.realised:
        return _realised(plan)
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


def _realised(plan: PlanResult) -> list[str]:
    """Return the lines on the plans that were really pruned: predicted and realised drops."""
    split = f"{plan.sweep['split']} images" if plan.sweep.get("split") else "images"
    lines = [
        f"realised on {plan.sweep['n']} {split}: pruned and repaired, predicted → measured drop "
        "[95 %, paired by image]"
    ]
    for row in plan.realised:
        lines.append(
            f"{row.name}: {row.predicted:+.2f} → {row.drop:+.2f}"
            f"{_interval(row.drop_low, row.drop_high)}, MACs {row.macs_share:.4f}×, "
            f"params {row.params_share:.4f}×{' (taken)' if row.taken else ''}"
        )
    if plan.repair == "none":
        lines.append("the predictions are of networks as removed, since the sweep repaired nothing")
    return lines


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{low:+.2f}, {high:+.2f}]"


def render_sensitivity(table: Sensitivity, *, width: int | None = None) -> str:
    """Render a sweep: one line per layer with its drops in percentage points, by rising ratio.

    ``width``: the most characters of a line; more levels follow in tables of their own, and drops
    have one decimal. ``None`` is no limit: then a screened sweep also shows the fraction of images
    that were classified again in fp32.
    """
    base = table.baseline
    text = (
        f"dense: {base.accuracy:.2f} % [{base.low:.2f}, {base.high:.2f}] of {base.n} images;"
        f" drops in percentage points, {table.precision}"
    )
    if table.repair != "none":
        text += f", {REPAIR_WORDS[table.repair]} at each point"
        linear = {row.name for row in spec_from_dict(table.spec).rows if row.kind == "linear"}
        is_partial = (table.repair, table.kind) == ("reconstruct", "unstructured")
        if is_partial and not table.repair_linear and linear & set(table.layers):
            text += " but those of linear layers"
    levels = [f"{point.ratio:g}" for point in table.of_layer(table.layers[0])]
    if width is None:
        rows, last = [], ["redone in fp32"] if table.precision == "screened" else []
        for layer in table.layers:
            points = table.of_layer(layer)
            redone = sum(point.redone for point in points) / sum(point.n for point in points)
            drops = [f"{point.drop:+.2f}" for point in points]
            rows.append([layer, *drops, *([f"{redone:.1%}"] if last else [])])
        return f"{text}\n{text_table([f'{table.kind} drop', *levels, *last], rows)}"
    rows = [
        [layer, *(f"{point.drop:+.1f}" for point in table.of_layer(layer))]
        for layer in table.layers
    ]
    name = max(len(table.kind), *(len(layer) for layer in table.layers))
    column = GAP + max(len(cell) for row in (["", *levels], *rows) for cell in row[1:])
    at_once = max((width - name) // column, 1)
    parts = [
        text_table(
            [f"{table.kind} drop", *levels[start : start + at_once]],
            [[row[0], *row[1 + start : 1 + start + at_once]] for row in rows],
            width,
        )
        for start in range(0, len(levels), at_once)
    ]
    return "\n".join([wrapped(text, width), "\n\n".join(parts)])


def render_dry_run(
    spec: Spec, target: Spec, ratios: Mapping[str, float], *, width: int | None = None
) -> str:
    """Render the channels, params and MACs of each layer before and after a structured prune.

    ``spec`` is the dense network and ``target`` the network after it, with the same layers.
    ``ratios`` are the requested ones, by layer; rounding may change them in ``target``. ``width``:
    the most characters of a line; ``None`` is no limit.
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
    params, macs = (spec.params(), target.params()), (spec.macs(), target.macs())
    lines = [
        f"params {params[1] / params[0]:.3f}×, MACs {macs[1] / macs[0]:.3f}×",
        f"total params {params[0]:,} → {params[1]:,} and MACs {macs[0]:,} → {macs[1]:,}",
    ]
    table = text_table(["layer", "ratio", "channels", "params", "MACs"], rows, width)
    return "\n".join([table, *(wrapped(line, width) for line in lines)])
