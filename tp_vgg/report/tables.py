"""This module renders records as tables of text: for the console, and as Markdown, CSV or JSON."""

from __future__ import annotations

import csv
import io
import itertools
import json

from tp_vgg.errors import printable
from tp_vgg.latency.profile import Staircase
from tp_vgg.latency.table import SLOW, Latency, LatencyRow
from tp_vgg.report.text_table import markdown_table, text_table
from tp_vgg.rundir.comparison import Comparison, metrics

TABLE_FORMATS = ("text", "markdown", "json", "csv")
"""Formats in which :func:`render_comparison` can write the table."""


def render_comparison(comparison: Comparison, form: str = "text") -> str:
    """Render a comparison in one of :data:`TABLE_FORMATS`.

    Every ratio (``0.500×``) is a model's value divided by that of the first model, the baseline.
    Drops are in percentage points against the baseline on the same test images. In text and
    Markdown, the notes on files that tp_vgg did not write follow, and one line per plan, with its
    prediction and the measured result. JSON is the content of ``metrics.json``.
    """
    if form == "json":
        return json.dumps(metrics(comparison), indent=1, allow_nan=False)
    if form == "csv":
        return _csv(comparison)
    base = next(iter(comparison.records.values()))
    quoted = comparison.quoted()
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
        for name, r in comparison.records.items()
    ]
    table = markdown_table(header, rows) if form == "markdown" else text_table(header, rows)
    notes = [
        printable(f"{name}: {note}")
        for name, record in comparison.records.items()
        for note in (record.notes if record.file_bytes is not None else ())
    ]
    notes += map(printable, comparison.finetuning())
    return "\n\n".join([table, *notes, *(one.line() for one in comparison.plan_outcomes)])


def _speedup(row: LatencyRow | None) -> str:
    if row is None:
        return "not measured"
    interval = f"{row.speedup:.2f} [{row.speedup_low:.2f}, {row.speedup_high:.2f}]"
    return f"A/A {interval}" if row.verdict == "reference" else f"{interval} {row.verdict}"


def _with_ratio(value: int, base: int, unit: float, name: str) -> str:
    return f"{value / unit:.2f}{name} ({value / base:.3f}×)"


def _csv(comparison: Comparison) -> str:
    base = next(iter(comparison.records.values()))
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
    quoted = comparison.quoted()
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns + [c for name in counts for c in (name, f"{name}_ratio")] + latency)
    for name, r in comparison.records.items():
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


def render_benchmark(table: Latency) -> str:
    """Render a benchmark: one line per model and case, and each reason once below the table.

    ``MACs`` is the model's MACs divided by the dense model's. A case that was not available has one
    line for all models.
    """
    rows = [
        _line(row) for row in table.rows if row.speedup is not None or row.model == table.reference
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
        table.environment["cpu"]
        if table.environment["device"] == "cpu"
        else table.environment["device"]
    )
    blocks = sorted({len(row.seconds) for row in table.rows if row.seconds})
    thrown = (
        f"; {table.slow_blocks} blocks thrown away, in which the clock was under {SLOW:.0%} of its"
        " default rate"
        if table.slow_blocks
        else ""
    )
    lines = [
        f"{where}, {table.environment['threads']} CPU threads;"
        f" n = {' or '.join(map(str, blocks))} blocks;"
        f" {table.reference}'s speed-up is its A/A control{thrown}",
        text_table(header, rows),
    ]
    if table.conditions.get("probes") is False:
        lines.append("steps at slightly smaller widths were not looked for (--no-probes)")
    reasons: dict[str, list[LatencyRow]] = {}
    for row in table.rows:
        for reason in row.reasons if row.speedup else ():
            reasons.setdefault(f"{row.model}: {reason}", []).append(row)
    lines += [
        f"{reason} ({'; '.join(row.case.label for row in places)})"
        for reason, places in reasons.items()
    ]
    twins = {name: about["timed_as"] for name, about in table.models.items() if "timed_as" in about}
    lines += [
        f"{name}: timed as {other}, which has the same widths and no zeros either"
        for name, other in twins.items()
    ]
    return "\n".join([printable(lines[0]), lines[1], *map(printable, lines[2:])])


def _line(row: LatencyRow) -> list[str]:
    head = [row.model, row.mode, row.dtype, str(row.batch_size)]
    if row.median_ms is None or row.speedup is None or row.mac_ratio is None:
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
        f"{1 / row.mac_ratio:.3f}×",
        f"{row.efficiency:.2f} [{row.efficiency_low:.2f}, {row.efficiency_high:.2f}]",
        f"{row.over_eager:.2f}",
        f"{row.peak_bytes / 1e6:.1f}" if row.peak_bytes else "-",
        f"{row.verdict}: {names}" if names else row.verdict,
    ]


def render_profile(table: Staircase) -> str:
    """Render a profile: for each conv the time at full width, at about half, and the highest step.

    All input channels are present. Times are in microseconds. ``share`` is the conv's share of the
    time of all convs. ``half the width`` is the time at about half of the output channels (in
    brackets) divided by that at full width. A step is the time with one output channel more divided
    by the time before; the highest one shows where the time jumps.
    """
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
