"""Accuracy against size, arithmetic and time: a plan, a pruned and fine-tuned network and its latency for each of several budgets.

Resumable: a network that is there under its plan is not made again. Needs a finished `sensitivity --kind structured` in the run directory.
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
from tp_vgg.cli.options import budget_from, common_options, finetune_options
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
from tp_vgg.stages.options import BenchmarkOptions, Finetune, StructuredOptions, StructuredRequest
from tp_vgg.stages.plan import PlanOptions, plan
from tp_vgg.stages.pruning import work_key
from tp_vgg.stages.session import load_given
from tp_vgg.stages.structured import structured

COLUMNS = (
    "budget", "macs_share", "params_share", "one_shot", "accuracy", "low", "high", "n", "drop", "predicted_drop",
    "speedup", "speedup_low", "speedup_high", "cell",
)  # fmt: skip


def parse(text: str) -> dict[str, float]:
    """``macs=0.5`` or, for several at once, ``macs=0.5+params=0.4``."""
    budget = budget_from(tuple(text.split("+")))
    read_budget(budget, "structured")
    return budget


def variant(settings: Settings, budget: dict[str, float]) -> Settings:
    """Where the files of one budget lie."""
    return replace(
        settings, tag="pareto-" + "-".join(f"{name}{value:g}" for name, value in budget.items())
    )


def made(here: Settings, found: PlanResult, options: StructuredOptions) -> dict[str, ModelRecord]:
    """The records of a plan's networks: there already, or made now."""
    records = RunContents.of(here).models
    ratios = Plan.of(found.ratios, str(here.tag))
    options = replace(options, round_to=1)  # the ratios say the widths
    done = records.get("structured_finetuned")
    if done is None or done.key != work_key(here, records["baseline"].sha256, ratios, options):
        records = structured(here, StructuredRequest(lambda _spec: ratios, options))
    return records


def row(
    budget: dict[str, float],
    found: PlanResult,
    records: dict[str, ModelRecord],
    timed: LatencyRow | None,
) -> dict[str, Any]:
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
        "predicted_drop": found.prediction.drop,
    }
    if timed is not None and timed.speedup is not None:
        latency = (timed.speedup, timed.speedup_low, timed.speedup_high, timed.case.label)
        values.update(zip(COLUMNS[-4:], latency, strict=True))
    return values


def draw(rows: list[dict[str, Any]], dense: float) -> Figure:
    """A panel each for MACs, parameters and (where timed) the share of the dense model's time."""
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


@click.command()
@common_options
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    default=("macs=0.75", "macs=0.5", "macs=0.25", "macs=0.12"),
    show_default=True,
)
@click.option("--round-to", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--importance", default="l1", show_default=True)
@click.option("--recalibrate", is_flag=True)
@click.option("--finetune-epochs", type=click.IntRange(min=1))
@click.option(
    "--batch-size-timed",
    type=click.IntRange(min=0),
    default=64,
    show_default=True,
    help="0: no latency.",
)
@finetune_options
def main(
    settings: Settings, budgets: tuple[str, ...], round_to: int, importance: str, recalibrate: bool, batch_size_timed: int, finetune: Finetune
) -> None:  # fmt: skip
    """Leave OUT/pareto.csv and OUT/plots/pareto.png, and print the CSV."""
    asked = [parse(text) for text in budgets]
    given = load_given(settings)
    if given is not None:
        settings = settings.for_spec(given.spec)
    repair: Repair = "recalibrate" if recalibrate else "none"
    options = StructuredOptions(importance, round_to, repair=repair, finetune=finetune)
    places = [variant(settings, budget) for budget in asked]
    plans = [
        plan(here, PlanOptions("structured", budget, round_to, force=True))[0]
        for here, budget in zip(places, asked, strict=True)
    ]  # all of them before the first training: one may be out of reach
    networks = [made(here, found, options) for here, found in zip(places, plans, strict=True)]
    run = RunDir.of(settings)
    paths = [run.root / records["structured_finetuned"].checkpoint for records in networks]
    timed: dict[str, LatencyRow] = {}
    if batch_size_timed:
        cells = cases_of(["folded"], ["fp32"], [batch_size_timed])
        rows = benchmark(
            replace(settings, tag="pareto"), BenchmarkOptions(cells), tuple(paths)
        ).rows
        timed = {found.model: found for found in rows if found.model != MODELS[0]}
    table = [
        row(budget, found, records, timed.get(str(path)))
        for budget, found, records, path in zip(asked, plans, networks, paths, strict=True)
    ]
    text = csv_text(table)
    write_text(run.work / "pareto.csv", text)
    save_png(draw(table, networks[0]["baseline"].test.accuracy), run.plot("pareto"))
    click.echo(text, nl=False)


def csv_text(rows: list[dict[str, Any]]) -> str:
    from io import StringIO

    out = StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


if __name__ == "__main__":
    sys.exit(cli.execute(command=main, name=Path(__file__).name))
