"""This module renders benchmarks and profiles as text for a terminal."""

from __future__ import annotations

import itertools

from tp_vgg.errors import printable
from tp_vgg.latency.profile import Staircase
from tp_vgg.latency.table import SLOW, Latency, LatencyRow
from tp_vgg.machine.console import wrapped
from tp_vgg.report.text_table import long_names, shortened, text_table


def render_benchmark(table: Latency, *, width: int | None = None) -> str:
    """Render a benchmark: one line per model and case, and each reason once below the table.

    ``width``: the most characters of a line, for which some columns are left out; ``None`` has all.
    ``MACs`` is the model's MACs divided by the dense model's. A case that was not available has one
    line for all models.
    """
    shown = [row for row in table.rows if row.speedup is not None or row.model == table.reference]
    names = shortened(dict.fromkeys(row.model for row in table.rows))
    if width is None:
        lines = [text_table(_BENCHMARK_COLUMNS, [_line(row) for row in shown])]
    else:
        header = ["model", "case", "ms", "speed-up [95 %]", "verdict"]
        lines = [text_table(header, [_short_line(row, names[row.model]) for row in shown], width)]
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
    head = (
        f"{where}, {table.environment['threads']} CPU threads;"
        f" n = {' or '.join(map(str, blocks))} blocks;"
        f" {table.reference}'s speed-up is its A/A control{thrown}"
    )
    below = []
    if table.conditions.get("probes") is False:
        below.append("steps at slightly smaller widths were not looked for (--no-probes)")
    reasons: dict[str, list[LatencyRow]] = {}
    for row in table.rows:
        for reason in row.reasons if row.speedup else ():
            reasons.setdefault(f"{row.model}: {reason}", []).append(row)
    if width is not None:
        for row in shown:
            if row.speedup is None:
                reasons.setdefault(f"{row.verdict}: {row.reasons[0]}", []).append(row)
    below += [
        f"{reason} ({'; '.join(row.case.label for row in places)})"
        for reason, places in reasons.items()
    ]
    twins = {name: about["timed_as"] for name, about in table.models.items() if "timed_as" in about}
    below += [
        f"{name}: timed as {other}, which has the same widths and no zeros either"
        for name, other in twins.items()
    ]
    texts = [printable(text) for text in (head, *below)]
    if width is not None:
        texts = [wrapped(text, width) for text in (*texts, *long_names(names))]
    return "\n".join([texts[0], *lines, *texts[1:]])


_BENCHMARK_COLUMNS = (
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
)


def _short_line(row: LatencyRow, name: str) -> list[str]:
    case = f"{row.mode} {row.dtype} {row.batch_size}"
    if row.median_ms is None or row.speedup is None:
        return ["(all)", case, "-", "-", row.verdict]
    return [
        name,
        case,
        f"{row.median_ms:.3f}",
        f"{row.speedup:.2f} [{row.speedup_low:.2f}, {row.speedup_high:.2f}]",
        "A/A" if row.verdict == "reference" else row.verdict,
    ]


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


def render_profile(table: Staircase, *, width: int | None = None) -> str:
    """Render a profile: for each conv the time at full width, at about half, and the highest step.

    All input channels are present. Times are in microseconds. ``share`` is the conv's share of the
    time of all convs. ``half the width`` is the time at about half of the output channels (in
    brackets) divided by that at full width. A step is the time with one output channel more divided
    by the time before; the highest one shows where the time jumps. ``width``: the most characters
    of a line; ``None`` is no limit.
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
    return text_table(header, rows, width)
