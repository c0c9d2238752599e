"""The `unstructured` command sets weights to zero."""

from __future__ import annotations

from pathlib import Path

import click

from tp_vgg.cli import print_table
from tp_vgg.cli.arguments import plan_from
from tp_vgg.cli.command import Command, option
from tp_vgg.cli.options import (
    common_options,
    finetune_options,
    force_option,
    repair_options,
    wide_option,
)
from tp_vgg.cli.value_types import COUNT, PATH, WholeNumber
from tp_vgg.errors import BadInput, printable
from tp_vgg.machine.console import is_main_process
from tp_vgg.pruning.criteria import WEIGHT_CRITERIA
from tp_vgg.rundir.expected import expected_spec
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.options import Finetune, RepairOptions, UnstructuredOptions, UnstructuredRequest


@click.command("unstructured", cls=Command)
@common_options
@option("--ratios", type=PATH, metavar="FILE", help="Sparsity of each layer, as JSON.")
@option(
    "--sparsity",
    type=float,
    metavar="S",
    help="Fraction of weights to zero, in all convs and hidden linear layers.",
)
@option(
    "--scope",
    type=click.Choice(["layer", "global"]),
    default="layer",
    help="Rank weights within each layer, or over all layers together.",
)
@option(
    "--finetune-epochs",
    type=WholeNumber(min=0),
    default=0,
    metavar="N",
    help="Epochs of fine-tuning with the zeros held, over all steps together.",
)
@option(
    "--importance",
    type=click.Choice(WEIGHT_CRITERIA),
    default="l1",
    help="Rank weights by magnitude, or by |weight · gradient|.",
)
@option(
    "--gradual",
    is_flag=True,
    help="Let the zeros grow during fine-tuning, by a cubic schedule; nothing is repaired.",
)
@option(
    "--steps",
    type=COUNT,
    metavar="N",
    show_default="2 from 98 % zeros on, if 2 or more epochs follow and nothing is repaired; else 1",
    help="Zero in N parts, fine-tuning after each.",
)
@repair_options
@finetune_options
@force_option
@option(
    "--show",
    metavar="LAYER",
    help="Draw the layer's weights before and after, without a repair. Without --ratios and "
    "--sparsity it only draws, at sparsity 0.5.",
)
@wide_option
def command(
    settings: Settings,
    ratios: Path | None,
    sparsity: float | None,
    scope: str,
    importance: str,
    gradual: bool,
    steps: int | None,
    repair: RepairOptions,
    finetune: Finetune,
    show: str | None,
    force: bool,
    width: int | None,
) -> None:
    """Set the smallest weights to zero; makes sparse files, not faster networks.

    It fine-tunes if --finetune-epochs is given; the zeros stay zero in it.

    \b
    Example: python -m tp_vgg unstructured --dataset digits --sparsity 0.9
    Or: torchrun --nproc-per-node 2 -m tp_vgg unstructured --sparsity 0.9
    """
    if scope == "global" and sparsity is None:
        raise BadInput(
            "--scope global: ranks all layers together and needs --sparsity S, without --ratios"
        )
    plan_for = plan_from(ratios, sparsity, "--sparsity", "unstructured", settings, show)
    options = UnstructuredOptions(
        sparsity if scope == "global" else None, importance, gradual, steps, repair, finetune
    )
    request = UnstructuredRequest(plan_for, options, show, force)
    if settings.checkpoint is None:
        request.resolve(expected_spec(settings))

    from tp_vgg.stages.unstructured import show_unstructured, unstructured

    if ratios is None and sparsity is None:
        path = show_unstructured(settings, request)
        if is_main_process():
            click.echo(printable(str(path)))
    else:
        records = unstructured(settings, request)
        if is_main_process():
            print_table(records, width)
