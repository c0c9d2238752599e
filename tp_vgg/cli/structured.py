"""The `structured` command removes channels."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from tp_vgg.cli import print_table
from tp_vgg.cli.arguments import plan_from
from tp_vgg.cli.command import Command, option
from tp_vgg.cli.options import (
    common_options,
    finetune_options,
    force_option,
    repair_options,
    round_to_option,
    wide_option,
)
from tp_vgg.cli.value_types import COUNT, PATH, WholeNumber
from tp_vgg.errors import printable
from tp_vgg.machine.console import is_main_process
from tp_vgg.pruning.criteria import CRITERIA
from tp_vgg.pruning.ratios import unremoved_note
from tp_vgg.report.plan_tables import render_dry_run
from tp_vgg.rundir.expected import expected_spec
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.options import StructuredOptions, StructuredRequest

log = logging.getLogger(__name__)


@click.command("structured", cls=Command)
@common_options
@option(
    "--ratios",
    type=PATH,
    metavar="FILE",
    help="Fraction of each layer's channels to remove, as JSON.",
)
@option("--ratio", type=float, metavar="R", help="Fraction of channels to remove in every conv.")
@option(
    "--importance",
    type=click.Choice(list(CRITERIA)),
    default="l1",
    help="How channels are ranked.",
)
@round_to_option(1)
@option(
    "--steps", type=COUNT, default=1, metavar="N", help="Prune in N parts, fine-tuning after each."
)
@option(
    "--finetune-epochs",
    type=WholeNumber(min=0),
    metavar="N",
    show_default="2 on digits, else 5; at least one per step",
    help="Epochs of fine-tuning, over all steps together.",
)
@repair_options
@finetune_options
@force_option
@option("--dry-run", is_flag=True, help="Print the channels left in each layer, and stop.")
@option(
    "--show",
    metavar="LAYER",
    help="Draw the layer's filters before and after. Without --ratios and --ratio it only draws, "
    "at ratio 0.5.",
)
@wide_option
def command(
    settings: Settings,
    ratios: Path | None,
    ratio: float | None,
    dry_run: bool,
    show: str | None,
    force: bool,
    width: int | None,
    **chosen: Any,
) -> None:
    """Remove channels, check the result and fine-tune: the main job, for a faster network.

    \b
    Example: python -m tp_vgg structured --dataset digits --ratios ratios.json
    Or: torchrun --nproc-per-node 2 -m tp_vgg structured --ratios ratios.json
    """
    plan_for = plan_from(ratios, ratio, "--ratio", "structured", settings, show)
    options = StructuredOptions(**chosen)
    request = StructuredRequest(plan_for, options, show, force)
    if dry_run:
        click.echo(_dry_run(settings, request, width))
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
            print_table(records, width)


def _dry_run(settings: Settings, request: StructuredRequest, width: int | None) -> str:
    """Render the plan, resolved against the dense network that the command would prune."""
    if settings.checkpoint is None:
        spec = expected_spec(settings)
    else:
        from tp_vgg.stages.given import load_model

        spec = load_model(settings, settings.checkpoint).spec
    resolved = request.resolve(spec)
    if note := unremoved_note(resolved.plan, spec, resolved.spec, request.options.round_to):
        log.info(note)
    return render_dry_run(spec, resolved.spec, resolved.plan.values, width=width)
