"""This script measures accuracy against MACs, parameters and time over several budgets.

For each budget it makes a plan, prunes and fine-tunes the network, and times it. It needs a
finished `sensitivity --kind structured` in the run directory. It can be stopped and run again: a
network that was made by the same plan is not made again.
"""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from matplotlib.figure import Figure

from tp_vgg import cli
from tp_vgg.cli.arguments import budget_from
from tp_vgg.cli.command import Command, option
from tp_vgg.cli.options import common_options, finetune_options, round_to_option
from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.files.atomic import write_text
from tp_vgg.latency.table import LatencyRow, cases_of
from tp_vgg.planning.allocation import PlanResult
from tp_vgg.planning.budget import read_budget
from tp_vgg.pruning.ratios import Plan
from tp_vgg.pruning.repair import Repair
from tp_vgg.report.figures import save_png
from tp_vgg.rundir.contents import RunContents
from tp_vgg.rundir.layout import MODELS, RunDir
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.benchmark import benchmark
from tp_vgg.stages.given import given_network
from tp_vgg.stages.options import BenchmarkOptions, Finetune, StructuredOptions, StructuredRequest
from tp_vgg.stages.plan import PlanOptions, plan
from tp_vgg.stages.pruning import work_key
from tp_vgg.stages.structured import structured

COLUMNS = (
    "budget", "macs_share", "params_share", "one_shot", "accuracy", "low", "high", "n", "drop",
    "predicted_drop", "speedup", "speedup_low", "speedup_high", "cell",
)  # fmt: skip
"""Columns of pareto.csv; ``cell`` is the benchmark case of the speed-up."""


def parse(text: str) -> dict[str, float]:
    """Parse a budget such as ``macs=0.5`` or, with two limits, ``macs=0.5+params=0.4``.

    Raises :class:`tp_vgg.errors.BadInput` for anything else.
    """
    budget = budget_from(tuple(text.split("+")))
    read_budget(budget, "structured")
    return budget


def variant(settings: Settings, budget: dict[str, float]) -> Settings:
    """Return the settings of one budget: its files have a directory of their own, by a tag."""
    return replace(
        settings, tag="pareto-" + "-".join(f"{name}{value:g}" for name, value in budget.items())
    )


def prune_and_tune(
    here: Settings, result: PlanResult, options: StructuredOptions
) -> dict[str, ModelRecord]:
    """Prune and fine-tune the network by a plan, unless that is done; return the models' records.

    ``here``: the settings of the budget (:func:`variant`).
    """
    records = RunContents.of(here).models
    ratios = Plan.of(result.ratios, str(here.tag))
    options = replace(options, round_to=1)  # the ratios say the widths
    tuned = records.get("structured_finetuned")
    if tuned is None or tuned.key != work_key(here, records["baseline"].sha256, ratios, options):
        records = structured(here, StructuredRequest(lambda _spec: ratios, options))
    return records


def row(
    budget: dict[str, float],
    result: PlanResult,
    records: dict[str, ModelRecord],
    timed: LatencyRow | None,
) -> dict[str, Any]:
    """Return one row of pareto.csv, by :data:`COLUMNS`; without times if ``timed`` has none.

    ``records``: those of the budget's models. Shares are the fine-tuned model's value divided by
    the dense model's; drops are in percentage points.
    """
    base, pruned, tuned = (
        records[name] for name in ("baseline", "structured_pruned", "structured_finetuned")
    )
    values = {
        "budget": "+".join(f"{name}={value:g}" for name, value in budget.items()),
        "macs_share": tuned.macs / base.macs,
        "params_share": tuned.params / base.params,
        "one_shot": pruned.test.accuracy,
        "accuracy": tuned.test.accuracy,
        "low": tuned.test.low,
        "high": tuned.test.high,
        "n": tuned.test.n,
        "drop": base.test.accuracy - tuned.test.accuracy,
        "predicted_drop": result.prediction.drop,
    }
    if timed is not None and timed.speedup is not None:
        latency = (timed.speedup, timed.speedup_low, timed.speedup_high, timed.case.label)
        values.update(zip(COLUMNS[-4:], latency, strict=True))
    return values


def draw(rows: list[dict[str, Any]], dense: float) -> Figure:
    """Draw test accuracy against the kept share of MACs, of parameters and, if timed, of time.

    ``rows``: those of pareto.csv. ``dense``: the dense model's test accuracy in percent.
    """
    panels = {
        "MACs": [r["macs_share"] for r in rows],
        "parameters": [r["params_share"] for r in rows],
    }
    if all("speedup" in r for r in rows):
        panels[f"time ({rows[0]['cell']})"] = [1 / r["speedup"] for r in rows]
    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    for axis, (name, shares) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        order = sorted(range(len(rows)), key=shares.__getitem__)
        accuracies = [rows[i]["accuracy"] for i in order]
        reach = [
            [rows[i]["accuracy"] - rows[i]["low"] for i in order],
            [rows[i]["high"] - rows[i]["accuracy"] for i in order],
        ]
        axis.errorbar([shares[i] for i in order], accuracies, reach, marker="o", capsize=3)
        axis.axhline(dense, color="black", linestyle="--", linewidth=1, label="dense")
        axis.set(
            xlabel=f"{name}, share of the dense model's",
            ylabel="test accuracy, % [95 %]",
            xlim=(0, 1.02),
        )
        axis.legend()
    return figure


@click.command(cls=Command)
@common_options
@option(
    "--budget",
    "budgets",
    multiple=True,
    default=("macs=0.75", "macs=0.5", "macs=0.25", "macs=0.12"),
    metavar="NAME=VALUE",
    help="A budget of `plan`; a network is made for each.",
)
@round_to_option(8)
@option("--importance", default="l1", help="How channels are ranked.")
@option(
    "--recalibrate",
    is_flag=True,
    help="Estimate batch norm's statistics anew after each pruning.",
)
@option(
    "--finetune-epochs",
    type=click.IntRange(min=1),
    metavar="N",
    show_default="2 on digits, else 5",
    help="Epochs of fine-tuning for each network.",
)
@option(
    "--batch-size-timed",
    type=click.IntRange(min=0),
    default=64,
    metavar="N",
    help="Batch size at which networks are timed; 0: they are not.",
)
@finetune_options
def main(
    settings: Settings, budgets: tuple[str, ...], round_to: int, importance: str, recalibrate: bool,
    batch_size_timed: int, finetune: Finetune,
) -> None:  # fmt: skip
    """Write OUT/pareto.csv and OUT/plots/pareto.png, and print the CSV."""
    limits = [parse(text) for text in budgets]
    settings, given_model = given_network(settings)
    if given_model is not None:
        settings = settings.for_spec(given_model.spec)
    repair: Repair = "recalibrate" if recalibrate else "none"
    options = StructuredOptions(importance, round_to, repair=repair, finetune=finetune)
    variants = [variant(settings, budget) for budget in limits]
    # All plans come before the first training, because a budget may be out of reach.
    plans = [
        plan(here, PlanOptions("structured", budget, round_to, force=True))[0]
        for here, budget in zip(variants, limits, strict=True)
    ]
    networks = [
        prune_and_tune(here, result, options) for here, result in zip(variants, plans, strict=True)
    ]
    run = RunDir.of(settings)
    paths = [run.root / records["structured_finetuned"].checkpoint for records in networks]
    timed: dict[str, LatencyRow] = {}
    if batch_size_timed:
        cases = cases_of(["folded"], ["fp32"], [batch_size_timed])
        rows = benchmark(
            replace(settings, tag="pareto"), BenchmarkOptions(cases), tuple(paths)
        ).rows
        timed = {latency.model: latency for latency in rows if latency.model != MODELS[0]}
    table = [
        row(budget, result, records, timed.get(str(path)))
        for budget, result, records, path in zip(limits, plans, networks, paths, strict=True)
    ]
    text = csv_text(table)
    write_text(run.work / "pareto.csv", text)
    save_png(draw(table, networks[0]["baseline"].test.accuracy), run.plot("pareto"))
    click.echo(text, nl=False)


def csv_text(rows: list[dict[str, Any]]) -> str:
    """Return the text of pareto.csv: a header and one line per row."""
    from io import StringIO

    out = StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


if __name__ == "__main__":
    sys.exit(cli.execute(command=main, name=Path(__file__).name))
