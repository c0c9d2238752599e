"""The `run` command calls every stage in order."""

from __future__ import annotations

from typing import Any, get_args

import click

from tp_vgg.cli.arguments import budget_from, check_one_process
from tp_vgg.cli.command import Command, option
from tp_vgg.cli.options import (
    common_options,
    finetune_options,
    force_option,
    round_to_option,
    wide_option,
)
from tp_vgg.cli.value_types import COUNT, WholeNumber
from tp_vgg.errors import printable
from tp_vgg.machine.console import wrapped
from tp_vgg.pruning.criteria import Kind
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.run_budget import RunOptions


@click.command("run", cls=Command)
@common_options
@option(
    "--budget",
    "budgets",
    multiple=True,
    default=("macs=0.5",),
    metavar="NAME=VALUE",
    help="What to keep, as for `plan`: macs=0.5 keeps half of the MACs. latency= is for "
    "channels only, sparsity= for weights only; a kind left without a budget gets macs=0.5. "
    "May repeat.",
)
@round_to_option(8)
@option(
    "--epochs",
    type=COUNT,
    metavar="N",
    show_default="3 on digits, else 12 on a CPU, 24 on CUDA",
    help="Epochs of the dense model, if it is not trained yet.",
)
@option(
    "--finetune-epochs",
    type=WholeNumber(min=0),
    metavar="N",
    show_default="2 on digits, else 5",
    help="Epochs of fine-tuning for both pruned models; 0: none.",
)
@finetune_options
@force_option
@wide_option
def command(
    settings: Settings,
    budgets: tuple[str, ...],
    round_to: int,
    epochs: int | None,
    width: int | None,
    **chosen: Any,
) -> None:
    """Run the whole pipeline, from the dense model to the report page; start here.

    It trains, sweeps both kinds, plans, prunes, fine-tunes, benchmarks and writes report.html.
    At the end it prints a table of all models, a verdict in three lines, and the page's path.
    Stages that are finished and whose inputs are unchanged are skipped. After Ctrl-C or a kill
    the same command continues where it was.

    \b
    Example: python -m tp_vgg run --dataset digits --budget macs=0.5
    """
    options = RunOptions(budget_from(budgets), round_to, epochs, **chosen)
    for kind in get_args(Kind):
        options.of(kind)  # refuses a budget that is not valid
    check_one_process("run")

    from tp_vgg.report.tables import render_comparison
    from tp_vgg.stages.run import run

    outcome = run(settings, options)
    click.echo(render_comparison(outcome.comparison, width=width))
    lines = map(printable, (*outcome.verdict, f"Page: {outcome.page}"))
    click.echo("\n" + "\n".join(wrapped(line, width) for line in lines))
