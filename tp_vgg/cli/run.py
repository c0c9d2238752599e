from __future__ import annotations

import os
from typing import Any

import click

from tp_vgg.cli.options import COUNT, budget_from, common_options, finetune_options
from tp_vgg.errors import BadInput
from tp_vgg.rundir.settings import Settings


@click.command("run")
@common_options
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    default=("macs=0.5",),
    show_default=True,
    metavar="NAME=VALUE",
    help="As of `plan`, for both kinds of pruning; latency= counts for channels alone and sparsity= for single weights.",
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
    "--epochs",
    type=COUNT,
    metavar="N",
    help="Of the baseline where there is none yet; 3 on digits, else 12 on a CPU, 24 on CUDA.",
)
@click.option(
    "--finetune-epochs", type=click.IntRange(min=0), metavar="N", help="2 on digits, else 5."
)
@finetune_options
def command(
    settings: Settings, budgets: tuple[str, ...], round_to: int, epochs: int | None, **chosen: Any
) -> None:
    """The whole pipeline: dense model, sweeps, plans, pruned models, benchmark, report.

    A stage is left out where its output is there and its inputs are unchanged; after a Ctrl-C or a kill the same command goes on where it was.

    \b
    Example: python -m tp_vgg run --dataset digits --budget macs=0.5
    """
    budget = budget_from(budgets)
    if "LOCAL_RANK" in os.environ:
        raise BadInput(
            "run: is one process; use torchrun with train, sensitivity, structured or unstructured"
        )

    from tp_vgg.report.tables import render_comparison
    from tp_vgg.stages.run import RunOptions, run

    click.echo(
        render_comparison(run(settings, RunOptions(budget, round_to, epochs, chosen["finetune"])))
    )
