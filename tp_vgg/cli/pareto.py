"""The `pareto` command makes one pruned model per budget and compares them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tp_vgg.cli.arguments import budget_from, check_file, check_one_process, listed
from tp_vgg.cli.command import Command, option
from tp_vgg.cli.options import (
    common_options,
    finetune_options,
    force_option,
    profile_option,
    round_to_option,
    wide_option,
)
from tp_vgg.cli.value_types import WholeNumber
from tp_vgg.latency.table import MAX_BATCH
from tp_vgg.report.pareto import render_pareto, render_plans
from tp_vgg.rundir.settings import Settings


@click.command("pareto", cls=Command)
@common_options
@option(
    "--budgets",
    default="macs=0.75,macs=0.5,macs=0.25,macs=0.12",
    metavar="NAME=VALUE,…",
    help="Budgets, as for `plan`; a model is made for each. Join limits that hold at once by +, as "
    "in macs=0.5+params=0.3.",
)
@round_to_option(8)
@profile_option
@option(
    "--finetune-epochs",
    type=WholeNumber(min=0),
    metavar="N",
    show_default="2 on digits, else 5",
    help="Epochs of fine-tuning of each model.",
)
@option(
    "--batch-size-timed",
    type=WholeNumber(0, MAX_BATCH),
    default=64,
    metavar="N",
    help="Batch size at which the models are timed, folded in fp32; 0: they are not.",
)
@finetune_options
@force_option
@option("--dry-run", is_flag=True, help="Print what the plans predict, and stop.")
@wide_option
def command(
    settings: Settings,
    budgets: str,
    profile: Path | None,
    dry_run: bool,
    width: int | None,
    **chosen: Any,
) -> None:
    """Prune to several budgets and compare their accuracy, cost and speed; after `sensitivity`.

    For each budget it plans from the structured sweep, prunes and fine-tunes a model in
    OUT/pareto-BUDGET; then it times all together, and leaves OUT/pareto.csv and
    OUT/plots/pareto.png, which `report` shows. A budget out of reach is refused before the first
    training. After Ctrl-C the same command continues where it was; models that are finished are
    not made again.

    \b
    Example: python -m tp_vgg pareto --dataset digits --budgets macs=0.75,macs=0.5
    """
    from tp_vgg.stages.pareto_plans import ParetoOptions, best_plans, check_budgets, named_budgets

    with named_budgets():
        parsed = tuple(budget_from(tuple(part.split("+"))) for part in listed(budgets))
    options = ParetoOptions(check_budgets(parsed), profile=profile, **chosen)
    if profile is not None:
        check_file("--profile", profile)
    check_one_process("pareto")
    plans = best_plans(settings, options)
    if dry_run:
        click.echo(render_plans(plans, width=width))
        return

    from tp_vgg.stages.pareto import pareto

    click.echo(render_pareto(pareto(settings, options, plans), width=width))
