"""This module renders the models of several budgets: short for a terminal, and whole as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, fields

from tp_vgg.machine.console import wrapped
from tp_vgg.planning.allocation import PlanResult
from tp_vgg.report.text_table import text_table
from tp_vgg.rundir.pareto import Pareto, ParetoPoint


def render_pareto(table: Pareto, *, width: int | None = None) -> str:
    """Render one line per budget: cost, accuracy, drop and speed-up; pareto.csv has intervals.

    ``width``: the most characters of a line; ``None`` is no limit.
    """
    case = table.case
    rows = [
        [
            point.budget,
            f"{point.macs_share:.3f}×",
            f"{point.params_share:.3f}×",
            f"{point.accuracy:.2f} %",
            f"{point.drop:+.2f}",
            *([f"{point.speedup:.2f} {point.verdict}"] if case else []),
        ]
        for point in table.points
    ]
    header = ["budget", "MACs", "params", "accuracy", "drop", *(["speed-up"] if case else [])]
    lines = [
        text_table(header, rows, width),
        f"accuracy on {table.points[0].n} test images; dense: {table.accuracy:.2f} %"
        + (f"; chance: {table.chance:.3g} %" if table.guesses else ""),
    ]
    if case:
        lines.append(f"speed-up: {case}")
        if table.control:
            control = "{:.2f} [{:.2f}, {:.2f}]".format(*table.control)
            lines[-1] += f"; A/A control {control}"
    texts = [wrapped(line, width) for line in lines[1:]]
    return "\n".join([lines[0], *texts])


def render_plans(plans: Mapping[str, PlanResult], *, width: int | None = None) -> str:
    """Render the predictions of the plans by budget; drops are before fine-tuning."""
    rows = [
        [
            budget,
            f"{plan.prediction.macs_share:.3f}×",
            f"{plan.prediction.params_share:.3f}×",
            f"{plan.prediction.drop:+.2f}",
        ]
        for budget, plan in plans.items()
    ]
    return text_table(["budget", "MACs", "params", "predicted drop"], rows, width)


def pareto_csv(table: Pareto) -> str:
    """Return the text of pareto.csv: a header and one line per budget; untimed cells are empty."""
    columns = [field.name for field in fields(ParetoPoint) if field.name != "sha256"]
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(point) for point in table.points)
    return out.getvalue()
