"""Records as tables of text."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Mapping

from tp_vgg.errors import printable
from tp_vgg.latency.profile import Staircase
from tp_vgg.latency.table import SLOW, Latency, LatencyRow
from tp_vgg.network.spec import Spec
from tp_vgg.planning.allocation import PlanResult
from tp_vgg.report.text_table import markdown_table, text_table
from tp_vgg.rundir.comparison import Comparison, metrics
from tp_vgg.sensitivity.table import Sensitivity

TABLE_FORMATS = ("text", "markdown", "json", "csv")


def render_comparison(found: Comparison, form: str = "text") -> str:
    """The comparison in one of ``TABLE_FORMATS``; ratios and drops are against the first record, the baseline."""
    if form == "json":
        return json.dumps(metrics(found), indent=1, allow_nan=False)
    if form == "csv":
        return _csv(found)
    base = next(iter(found.records.values()))
    quoted = found.quoted()
    header = [
        "model",
        f"test accuracy [95 %], n = {base.test.n}",
        "drop [95 %]",
        "params",
        "non-zero",
        "MACs",
        "file",
    ]
    if quoted:
        header.append(f"speed-up [95 %], {next(iter(quoted.values())).case.label}")
    rows = [
        [
            name,
            f"{r.test.accuracy:.2f} % [{r.test.low:.2f}, {r.test.high:.2f}]",
            "" if r is base else "{:+.2f} [{:+.2f}, {:+.2f}]".format(*r.drop_against(base)),
            _with_ratio(r.params, base.params, 1e6, " M"),
            _with_ratio(r.nonzero, base.nonzero, 1e6, " M"),
            _with_ratio(r.macs, base.macs, 1e6, " M"),
            _with_ratio(r.bytes, base.bytes, 1e6, " MB"),
            *([_speedup(quoted.get(name))] if quoted else []),
        ]
        for name, r in found.records.items()
    ]
    table = markdown_table(header, rows) if form == "markdown" else text_table(header, rows)
    return "\n\n".join([table, *(one.line() for one in found.plan_outcomes)])


def _speedup(row: LatencyRow | None) -> str:
    if row is None:
        return "not measured"
    interval = f"{row.speedup:.2f} [{row.speedup_low:.2f}, {row.speedup_high:.2f}]"
    return f"A/A {interval}" if row.verdict == "reference" else f"{interval} {row.verdict}"


def _with_ratio(value: int, base: int, unit: float, name: str) -> str:
    return f"{value / unit:.2f}{name} ({value / base:.3f}×)"


def _csv(found: Comparison) -> str:
    base = next(iter(found.records.values()))
    columns = [
        "model",
        "checkpoint",
        "correct",
        "n",
        "accuracy",
        "low",
        "high",
        "drop",
        "drop_low",
        "drop_high",
    ]
    counts = ["params", "nonzero", "macs", "bytes"]
    latency = [
        "mode",
        "dtype",
        "batch_size",
        "median_ms",
        "speedup",
        "speedup_low",
        "speedup_high",
        "verdict",
    ]
    quoted = found.quoted()
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns + [c for name in counts for c in (name, f"{name}_ratio")] + latency)
    for name, r in found.records.items():
        t = r.test
        row = [
            printable(name),
            printable(r.checkpoint),
            t.correct,
            t.n,
            t.accuracy,
            t.low,
            t.high,
            *r.drop_against(base),
        ]
        for count in counts:
            row += [getattr(r, count), getattr(r, count) / getattr(base, count)]
        writer.writerow(row + [getattr(quoted[name], c) if name in quoted else "" for c in latency])
    return out.getvalue().rstrip("\n")


def render_benchmark(found: Latency) -> str:
    """One line a row, and below it the reasons, each once."""
    rows = [
        _line(row) for row in found.rows if row.speedup is not None or row.model == found.reference
    ]
    header = [
        "model",
        "mode",
        "dtype",
        "batch",
        "ms",
        "IQR",
        "speed-up [95 %]",
        "MACs",
        "efficiency",
        "over eager",
        "peak MB",
        "verdict",
    ]
    where = (
        found.environment["cpu"]
        if found.environment["device"] == "cpu"
        else found.environment["device"]
    )
    blocks = sorted({len(row.seconds) for row in found.rows if row.seconds})
    thrown = (
        f"; {found.slow_blocks} blocks thrown away, in which the clock was under {SLOW:.0%} of its default rate"
        if found.slow_blocks
        else ""
    )
    lines = [
        f"{where}, {found.environment['threads']} CPU threads; n = {' or '.join(map(str, blocks))} blocks; {found.reference}'s speed-up is its A/A control{thrown}",
        text_table(header, rows),
    ]
    if found.conditions.get("probes") is False:
        lines.append("steps at slightly smaller widths were not looked for (--no-probes)")
    reasons: dict[str, list[LatencyRow]] = {}
    for row in found.rows:
        for reason in row.reasons if row.speedup else ():
            reasons.setdefault(f"{row.model}: {reason}", []).append(row)
    lines += [
        f"{reason} ({'; '.join(row.case.label for row in places)})"
        for reason, places in reasons.items()
    ]
    twins = {name: about["timed_as"] for name, about in found.models.items() if "timed_as" in about}
    lines += [
        f"{name}: timed as {other}, which has the same widths and no zeros either"
        for name, other in twins.items()
    ]
    return "\n".join([printable(lines[0]), lines[1], *map(printable, lines[2:])])


def _line(row: LatencyRow) -> list[str]:
    head = [row.model, row.mode, row.dtype, str(row.batch_size)]
    if row.median_ms is None or row.speedup is None:
        return [
            "(all)",
            *head[1:],
            "-",
            "-",
            "-",
            "-",
            "-",
            "-",
            "-",
            f"{row.verdict}: {row.reasons[0]}",
        ]
    names = ", ".join(dict.fromkeys(reason.partition(":")[0] for reason in row.reasons))
    return [
        *head,
        f"{row.median_ms:.3f}",
        f"{row.iqr_ms:.3f}",
        f"{row.speedup:.3f} [{row.speedup_low:.3f}, {row.speedup_high:.3f}]",
        f"{row.mac_ratio:.2f}×",
        f"{row.efficiency:.2f} [{row.efficiency_low:.2f}, {row.efficiency_high:.2f}]",
        f"{row.over_eager:.2f}",
        f"{row.peak_bytes / 1e6:.1f}" if row.peak_bytes else "-",
        f"{row.verdict}: {names}" if names else row.verdict,
    ]


def render_profile(table: Staircase) -> str:
    """Each conv at full width, at half, and its highest step."""
    rows = []
    whole = sum(table.at_full_input(layer)[-1].median_us for layer in table.layers)
    for layer in table.layers:
        points = table.at_full_input(layer)
        full = points[-1]
        half = min(points, key=lambda point: abs(point.out_width - full.out_width / 2))
        steps = [
            (b.median_us / a.median_us, a, b)
            for a, b in itertools.pairwise(points)
            if b.out_width == a.out_width + 1
        ]
        highest = max(steps, key=lambda step: step[0], default=None)
        rows.append(
            [
                layer,
                f"{full.in_width} → {full.out_width}",
                f"{full.median_us:.1f}",
                f"{full.median_us / whole:.1%}",
                f"{half.median_us / full.median_us:.2f} ({half.out_width})",
                f"{highest[0]:.2f} ({highest[1].out_width} → {highest[2].out_width})"
                if highest
                else "-",
            ]
        )
    header = [
        f"{table.dtype}, batch {table.batch_size}",
        "channels",
        "µs",
        "share",
        "half the width",
        "highest step",
    ]
    return text_table(header, rows)


def render_plan(found: PlanResult) -> str:
    """The plan as a table, and under it what is predicted."""
    structured, said = found.kind == "structured", found.prediction
    rows = [
        [
            row.layer,
            f"{row.ratio:g}",
            f"{row.before:,} → {row.after:,}",
            f"{row.after / row.before:.3f}×",
            f"{row.drop:+.2f}",
        ]
        for row in found.layers
    ]
    what = ["ratio", "channels"] if structured else ["sparsity", "weights"]
    lines = [text_table(["layer", *what, "kept", "drop alone"], rows)]
    asked = ", ".join(f"{name}={value:g}" for name, value in found.budget.items())
    sizes = [
        f"{said.params_share:.4f}× params ({said.params:,})",
        f"{said.macs_share:.4f}× MACs ({said.macs:,})",
    ]
    if not structured:
        sizes = [f"{said.sparsity:.4f} zeros", *(f"{size} not zero" for size in sizes)]
    if said.latency_share is not None and found.profile is not None:
        about = found.profile
        sizes.append(
            f"{said.latency_share:.3f}× time of the convs ({about['device']}, {about['dtype']}, batch {about['batch_size']})"
        )
    lines.append(f"budget {asked}; predicted: {', '.join(sizes)}")
    split = f"{found.sweep['split']} images" if found.sweep.get("split") else "images"
    lines.append(
        f"predicted drop before fine-tuning: {said.drop:+.2f} points, to {said.accuracy:.2f} % (on {found.sweep['n']} {split}, by the sweep)"
    )
    unit = "points" if found.minimised == "drop" else found.minimised
    below = f"the best can be {found.gap:.3g} {unit} below, not more"
    lines.append(
        f"minimised: {found.minimised}; {below if found.gap else 'no plan within the budget has less of it'}"
    )
    return "\n".join(lines)


def render_sensitivity(table: Sensitivity) -> str:
    """Drops by layer and ratio, in percentage points against the dense model."""
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
    dense = f"dense: {base.accuracy:.2f} % [{base.low:.2f}, {base.high:.2f}] of {base.n} images; drops in percentage points, {table.precision}"
    return f"{dense}\n{text_table(header, rows)}"


def render_dry_run(spec: Spec, target: Spec, ratios: Mapping[str, float]) -> str:
    """What a structured plan would leave of each layer: ``ratios`` as asked, ``target`` as they come out."""
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
        f"{target.params() / spec.params():.3f}× params, {target.macs() / spec.macs():.3f}× MACs"
    )
    params, macs = (
        f"{spec.params():,} → {target.params():,}",
        f"{spec.macs():,} → {target.macs():,}",
    )
    return text_table(
        ["layer", "ratio", "channels", "params", "MACs"],
        [*rows, ["total", "", shares, params, macs]],
    )
