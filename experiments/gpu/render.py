"""This module renders the results of rounds as Markdown: the tables of docs/gpu.md (no torch).

A value that no result holds is "not measured".
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from gpu import latency_tables, training_tables
from gpu.results import NOT_MEASURED, Results, amount, listing, table
from tp_vgg.errors import printable

Section = tuple[str, Callable[[Results], str]]
"""The title of a section, and the function that renders its text."""


def render(lines: Sequence[dict[str, Any]]) -> str:
    """Render all sections, in the order of docs/gpu.md.

    ``lines``: those of one or more rounds; later lines replace earlier ones.
    """
    results = Results(lines)
    sections: list[Section] = [
        ("Machine", machine),
        ("Tests and checks", tests),
        ("Latency", latency_tables.latency),
        ("Speed-up ÷ MAC ratio of half_macs.json, batch 1024, bf16", latency_tables.half_macs),
        ("Clocks", latency_tables.clocks),
        ("Sweeps", sweeps),
        ("A training step", training_tables.steps),
        ("Dense models", training_tables.dense_models),
        ("Fine-tuned models", training_tables.fine_tuned),
        ("Staircase", staircase),
        ("Repair", repairs),
        ("Steps", steps),
    ]
    return "\n\n".join(f"## {title}\n\n{section(make, results)}" for title, make in sections)


def section(make: Callable[[Results], str], results: Results) -> str:
    """Render a section; if a line of it is damaged, say so in its place."""
    try:
        return make(results)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        reason = f"{type(error).__name__}: {printable(str(error))[:80]}"
        return f"not shown: a line of the results is damaged ({reason})"


def machine(results: Results) -> str:
    """List the hardware, the versions and the measured ceilings."""
    facts = {**results.last("machine"), **results.last("device")}
    packages = facts.pop("packages", {})
    names = ("torch", "torchvision", "triton", "torch-pruning", "numpy", "click")
    facts |= {name: packages[name] for name in names if name in packages}
    shown = {"dry run": "the figures mean nothing"} if results.last("round").get("tiny") else {}
    commits = dict.fromkeys(
        line["commit"] for line in results.all_of("round") if line.get("commit")
    )
    shown |= {"commit": ", ".join(commits)} if commits else {}
    shown |= {
        name: value
        for name, value in facts.items()
        if name not in ("kind", "time", "name") and value is not None
    }
    ceilings = {
        row["name"]: amount(row["value"], 3) for row in results.of("ceiling") if "value" in row
    }
    return listing({**shown, **ceilings})


def tests(results: Results) -> str:
    """Render the number of tests by outcome, the names of failed ones, and all checks."""
    outcomes = {row["name"]: row["outcome"] for row in results.of("test")}
    checks = {
        row["name"]: "holds" if row.get("holds") else row.get("error", "does not hold")
        for row in results.of("check")
    }
    counts = {kind: list(outcomes.values()).count(kind) for kind in sorted(set(outcomes.values()))}
    summary = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    bad = [f"- {name}: {kind}" for name, kind in outcomes.items() if kind in ("failed", "error")]
    answers = [f"- check {name}: {answer}" for name, answer in checks.items()]
    return "\n".join(
        [f"gpu tests: {summary or NOT_MEASURED}", *bad, *(answers or [f"- checks: {NOT_MEASURED}"])]
    )


def sweeps(results: Results) -> str:
    """Render the times of both sweeps by precision, beside those of the notebook's loop.

    The time of the command line includes the start of Python and the loading.
    """
    by_sweep = {
        (row.get("sweep_kind"), row.get("precision")): row
        for row in results.of("sweep")
        if "warm" in row
    }
    naive = {row.get("sweep_kind"): row for row in results.of("naive") if row.get("whole")}
    rows = []
    for kind in ("structured", "unstructured"):
        loop = naive.get(kind, {}).get("whole", {})
        for precision in ("fp32", "screened", "bf16"):
            row = by_sweep.get((kind, precision))
            if row is None:
                rows.append([kind, precision, *[NOT_MEASURED] * 7])
                continue
            rows.append(
                [
                    kind,
                    precision,
                    f"{row['points']} × {row['images']:,}",
                    amount(row["cold"], 3),
                    amount(row["warm"], 3),
                    f"{row['redone']:.1%}",
                    amount(row.get("largest_difference"), 0) if precision != "fp32" else "-",
                    *(
                        f"{amount(loop[name], 1)} ({loop[name] / row['warm']:.1f}×)"
                        if name in loop
                        else NOT_MEASURED
                        for name in ("host loader", "on the device")
                    ),
                ]
            )
    header = (
        "sweep",
        "precision",
        "points × images",
        "first, s",
        "warm, s",
        "redone in fp32",
        "largest difference to fp32, images",
        "notebook's loop, s (÷ warm)",
        "the loop on resident batches, s (÷ warm)",
    )
    notes = [
        f"{kind}: the loop was timed on {row['timed']} of {row['points']} points, the rest "
        f"reckoned; its counts differ from the sweep's by {row['largest_difference']} images at "
        "most."
        for kind, row in naive.items()
    ]
    whole = [
        row
        for row in results.of("step")
        if "by the command line" in row["name"] and row.get("outcome") == "ok"
    ]
    notes += [f"{row['name']}: {amount(row['seconds'], 1)} s in all." for row in whole]
    return "\n".join([table(header, rows), *(f"\n{note}" for note in notes)])


def staircase(results: Results) -> str:
    """Render each conv's time at full width, at about half, and its highest step.

    A step is the time with one output channel more divided by the time before.
    """
    rows = []
    for name, profile in {
        row["name"]: row for row in results.of("profile") if "at_full_input_us" in row
    }.items():
        for layer, points in profile["at_full_input_us"].items():
            width, full = points[-1]
            half_width, half = min(points, key=lambda point: abs(point[0] - width / 2))
            climbs = [
                (b[1] / a[1], a[0])
                for a, b in itertools.pairwise(points)
                if b[0] == a[0] + 1 and a[1]
            ]
            climb = max(climbs, default=None)
            rows.append(
                [
                    name,
                    layer,
                    str(width),
                    amount(full, 1),
                    f"{half / full:.2f} ({half_width})",
                    f"{climb[0]:.2f} ({climb[1]} → {climb[1] + 1})" if climb else "-",
                ]
            )
    header = ("profile", "layer", "channels", "µs", "half the width", "highest step")
    return table(header, rows) if rows else NOT_MEASURED


def repairs(results: Results) -> str:
    """Render the time of each repair beside that of an epoch of fine-tuning, and accuracies."""
    rows = [
        [
            row["case"],
            amount(row["cold"], 2),
            amount(row["seconds"], 2),
            amount(row["epoch"], 2),
            amount(row["peak_bytes"] / 1e9, 2),
            *(amount(row[name], 2) for name in ("dense", "removed", "repaired")),
        ]
        for row in results.of("repair")
        if "seconds" in row
    ]
    header = ["case", "first s", "s", "epoch s", "peak GB", "dense %", "removed %", "repaired %"]
    return table(header, rows)


def steps(results: Results) -> str:
    """Render the number of steps that ended well, and the names and outcomes of the others."""
    last = {row["name"]: row for row in results.of("step")}
    ended = [row for row in last.values() if row["outcome"] == "ok"]
    others = [
        f"- {row['name']}: {row['outcome']}" for row in last.values() if row["outcome"] != "ok"
    ]
    return (
        "\n".join([f"{len(ended)} of {len(last)} ended well.", *others]) if last else NOT_MEASURED
    )
