"""The `plan` command turns a budget into ratios."""

from __future__ import annotations

import logging
from pathlib import Path

import click
from click.core import ParameterSource

from tp_vgg.cli.arguments import budget_from, check_file, check_one_process
from tp_vgg.cli.command import Command, option
from tp_vgg.cli.options import common_options, profile_option, round_to_option, wide_option
from tp_vgg.cli.value_types import PATH, WholeNumber
from tp_vgg.planning.allocation import PlanResult
from tp_vgg.planning.budget import read_budget
from tp_vgg.pruning.criteria import Kind
from tp_vgg.report.plan_tables import render_plan
from tp_vgg.rundir.settings import Settings

log = logging.getLogger(__name__)


@click.command("plan", cls=Command)
@common_options
@option(
    "--kind",
    type=click.Choice(["structured", "unstructured"]),
    default="structured",
    help="Plan ratios of channels, or sparsities of weights.",
)
@option(
    "--budget",
    "budgets",
    multiple=True,
    required=True,
    metavar="NAME=VALUE",
    help="macs=, params= or latency=: the fraction to keep at most. drop=: percentage points to "
    "lose at most. sparsity=: the fraction of zeros. May repeat: all hold.",
)
@round_to_option(8)
@option(
    "--output",
    type=PATH,
    show_default="OUT/ratios.json, or OUT/sparsity.json",
    help="Where to write the plan.",
)
@profile_option
@option(
    "--realise",
    type=WholeNumber(0, 20),
    default=0,
    metavar="K",
    help="Really prune, repair and measure K good plans, which differ from each other in a "
    "tenth of what they remove, and a uniform one; take the best. 0: predict only.",
)
@option("--force", is_flag=True, help="Replace a plan file with other content.")
@wide_option
def command(
    settings: Settings,
    kind: Kind,
    budgets: tuple[str, ...],
    round_to: int,
    output: Path | None,
    profile: Path | None,
    realise: int,
    force: bool,
    width: int | None,
) -> None:
    """Turn a budget into per-layer ratios or sparsities; after `sensitivity`, before pruning.

    The plan has the smallest predicted drop within the budget, or one that the sweep's images can't
    tell from it, at most 0.2 points larger: of these it keeps most MACs. It comes from the sweep of
    `sensitivity`, and for latency= from the table of `benchmark --profile`. With drop= it is the
    smallest network within that drop: by the first other budget, or else by parameters. Predicted
    drops are before fine-tuning; `compare` shows them beside the measured ones. With --realise,
    they are measured at once, after the repair, on the images of the sweep; on a CPU, about a
    minute a plan.

    \b
    Example: python -m tp_vgg plan --dataset digits --budget macs=0.5
    """
    budget = budget_from(budgets)
    read_budget(budget, kind)
    if realise:
        check_one_process("plan --realise")
    if profile is not None:
        check_file("--profile", profile)

    from tp_vgg.stages.plan import plan
    from tp_vgg.stages.plan_file import PlanOptions

    result, path = plan(
        settings, PlanOptions(kind, budget, round_to, output, profile, force, realise)
    )
    click.echo(render_plan(result, width=width))
    source = click.get_current_context().get_parameter_source("round_to")
    if kind == "unstructured" and source is ParameterSource.COMMANDLINE:
        log.info("--round-to: without effect, since single weights have no width to round")
    log.info(
        f"wrote {path}; next: python -m tp_vgg {kind} --ratios {path}{_flags(result)}, "
        "with the same options"
    )


def _flags(result: PlanResult) -> str:
    """Return the sweep's options that are not defaults: pruning needs them for the same drop."""
    importance = "" if result.importance == "l1" else f" --importance {result.importance}"
    return importance + (
        " --recalibrate" if result.repair == "recalibrate" and result.kind == "structured" else ""
    )
