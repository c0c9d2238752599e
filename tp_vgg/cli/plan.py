from __future__ import annotations

import logging
from pathlib import Path

import click

from tp_vgg.cli.options import COUNT, PATH, budget_from, check_file, common_options
from tp_vgg.planning.allocation import PlanResult
from tp_vgg.planning.budget import read_budget
from tp_vgg.pruning.criteria import Kind
from tp_vgg.report.tables import render_plan
from tp_vgg.rundir.settings import Settings

log = logging.getLogger(__name__)


@click.command("plan")
@common_options
@click.option(
    "--kind",
    type=click.Choice(["structured", "unstructured"]),
    default="structured",
    show_default=True,
    help="What to plan.",
)
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    required=True,
    metavar="NAME=VALUE",
    help="macs=, params=, latency= (fraction to keep), drop= (percentage points), sparsity= (zeros). May repeat: all hold.",
)
@click.option(
    "--round-to",
    type=COUNT,
    default=8,
    show_default=True,
    metavar="N",
    help="Channels stay multiples of it.",
)
@click.option(
    "--output",
    type=PATH,
    help="Where the plan goes (OUT/ratios.json; unstructured OUT/sparsity.json).",
)
@click.option(
    "--profile", type=PATH, help="Of `benchmark --profile`, for latency= (the one in OUT/profiles)."
)
@click.option("--force", is_flag=True, help="Replace a plan file that says something else.")
def command(
    settings: Settings,
    kind: Kind,
    budgets: tuple[str, ...],
    round_to: int,
    output: Path | None,
    profile: Path | None,
    force: bool,
) -> None:
    """From a budget to ratios: the plan with the smallest predicted drop.

    Reads the sweep of `sensitivity`, and for a latency budget the table of `benchmark --profile`. With drop= the other way round: the smallest
    network whose predicted drop stays within it, by the first other budget or else by parameters. Predicted drops are before
    fine-tuning; `compare` puts them beside what came out.

    \b
    Example: python -m tp_vgg plan --dataset digits --budget macs=0.5
    """
    budget = budget_from(budgets)
    read_budget(budget, kind)
    if profile is not None:
        check_file("--profile", profile)

    from tp_vgg.stages.plan import PlanOptions, plan

    found, path = plan(settings, PlanOptions(kind, budget, round_to, output, profile, force))
    click.echo(render_plan(found))
    log.info(
        f"wrote {path}; next: python -m tp_vgg {kind} --ratios {path}{_flags(found)}, with the same options"
    )


def _flags(found: PlanResult) -> str:
    """What the sweep did beyond its defaults, so that the prediction holds for what is pruned."""
    importance = "" if found.importance == "l1" else f" --importance {found.importance}"
    return importance + (
        " --recalibrate" if found.recalibrated and found.kind == "structured" else ""
    )
