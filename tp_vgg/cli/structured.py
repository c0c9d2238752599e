from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tp_vgg.cli import is_main_process, print_table
from tp_vgg.cli.options import COUNT, PATH, common_options, finetune_options, plan_from
from tp_vgg.errors import printable
from tp_vgg.network.spec import Spec
from tp_vgg.pruning.criteria import CRITERIA
from tp_vgg.report.tables import render_dry_run
from tp_vgg.rundir.contents import expected_spec
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.options import StructuredOptions, StructuredRequest


@click.command("structured")
@common_options
@click.option(
    "--ratios",
    type=PATH,
    metavar="FILE",
    help="Fraction of each layer's channels to remove, as JSON.",
)
@click.option("--ratio", type=float, metavar="R", help="One ratio for every conv.")
@click.option(
    "--importance",
    type=click.Choice(list(CRITERIA)),
    default="l1",
    show_default=True,
    help="How channels are ranked.",
)
@click.option(
    "--round-to",
    type=COUNT,
    default=1,
    show_default=True,
    metavar="N",
    help="Keep a multiple of N channels.",
)
@click.option(
    "--steps",
    type=COUNT,
    default=1,
    show_default=True,
    metavar="N",
    help="Prune in N parts, fine-tuning in between.",
)
@click.option(
    "--finetune-epochs",
    type=click.IntRange(min=0),
    metavar="N",
    help="In all; 2 on digits, else 5.",
)
@click.option(
    "--recalibrate", is_flag=True, help="Take batch norm's statistics anew after each pruning."
)
@finetune_options
@click.option(
    "--dry-run", is_flag=True, help="Print what the plan would leave of each layer, and stop."
)
@click.option(
    "--show",
    metavar="LAYER",
    help="Draw the layer's filters before and after; alone, at ratio 0.5, it prunes nothing.",
)
def command(
    settings: Settings,
    ratios: Path | None,
    ratio: float | None,
    recalibrate: bool,
    dry_run: bool,
    show: str | None,
    **chosen: Any,
) -> None:
    """Remove channels, prove it, fine-tune, save: the main job.

    \b
    Example: python -m tp_vgg structured --dataset digits --ratios examples/ratios.json
    """
    plan_for = plan_from(ratios, ratio, "--ratio", "structured", settings, show)
    options = StructuredOptions(repair="recalibrate" if recalibrate else "none", **chosen)
    request = StructuredRequest(plan_for, options, show)
    if dry_run:
        click.echo(_dry_run(settings, request))
        return
    if settings.checkpoint is None:
        request.resolve(expected_spec(settings))

    from tp_vgg.stages.structured import show_structured, structured

    if ratios is None and ratio is None:
        path = show_structured(settings, request)
        if is_main_process():
            click.echo(printable(str(path)))
    else:
        records = structured(settings, request)
        if is_main_process():
            print_table(records)


def _dry_run(settings: Settings, request: StructuredRequest) -> str:
    """The plan resolved against the checkpoint's spec or the flags', as a table."""
    spec: Spec = settings.flag_spec()
    if settings.checkpoint is not None:
        from tp_vgg.stages.session import load_dense

        spec = load_dense(settings, settings.checkpoint).spec
    resolved = request.resolve(spec)
    return render_dry_run(spec, resolved.spec, resolved.plan.values)
