from __future__ import annotations

from pathlib import Path

import click

from tp_vgg.cli import is_main_process, print_table
from tp_vgg.cli.options import PATH, common_options, finetune_options, plan_from
from tp_vgg.errors import BadInput, printable
from tp_vgg.pruning.criteria import WEIGHT_CRITERIA
from tp_vgg.rundir.contents import expected_spec
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.options import Finetune, UnstructuredOptions, UnstructuredRequest


@click.command("unstructured")
@common_options
@click.option("--ratios", type=PATH, metavar="FILE", help="Sparsity of each layer, as JSON.")
@click.option(
    "--sparsity", type=float, metavar="S", help="One sparsity for all convs and hidden linears."
)
@click.option(
    "--scope",
    type=click.Choice(["layer", "global"]),
    default="layer",
    show_default=True,
    help="Rank the weights of each layer alone, or of all together.",
)
@click.option(
    "--finetune-epochs", type=click.IntRange(min=0), default=0, show_default=True, metavar="N"
)
@click.option(
    "--importance",
    type=click.Choice(WEIGHT_CRITERIA),
    default="l1",
    show_default=True,
    help="How weights are ranked: magnitude, or |weight · gradient|.",
)
@click.option(
    "--gradual", is_flag=True, help="Let the zeros grow while fine-tuning, by a cubic schedule."
)
@finetune_options
@click.option(
    "--show",
    metavar="LAYER",
    help="Draw the layer's weights before and after; alone, at sparsity 0.5, it prunes nothing.",
)
def command(
    settings: Settings,
    ratios: Path | None,
    sparsity: float | None,
    scope: str,
    importance: str,
    gradual: bool,
    finetune: Finetune,
    show: str | None,
) -> None:
    """Set the smallest weights to zero, fine-tune under the masks, save.

    \b
    Example: python -m tp_vgg unstructured --dataset digits --sparsity 0.9 --scope global --finetune-epochs 2
    """
    if scope == "global" and sparsity is None:
        raise BadInput(
            "--scope global: ranks all layers together and needs --sparsity, not --ratios"
        )
    plan_for = plan_from(ratios, sparsity, "--sparsity", "unstructured", settings, show)
    options = UnstructuredOptions(
        sparsity if scope == "global" else None, importance, gradual, finetune
    )
    request = UnstructuredRequest(plan_for, options, show)
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
            print_table(records)
