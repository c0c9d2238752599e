"""The `compare` command prints one table of all models."""

from __future__ import annotations

from pathlib import Path

import click

from tp_vgg.cli.arguments import check_file
from tp_vgg.cli.command import Command, option
from tp_vgg.cli.options import common_options, wide_option
from tp_vgg.cli.value_types import PATH
from tp_vgg.report.tables import TABLE_FORMATS, render_comparison
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.compare import compare


@click.command("compare", cls=Command)
@common_options
@click.argument("checkpoints", nargs=-1, type=PATH)
@option(
    "--format",
    "form",
    type=click.Choice(TABLE_FORMATS),
    default="text",
    help="Format of the table.",
)
@wide_option
def command(
    settings: Settings, checkpoints: tuple[Path, ...], form: str, width: int | None
) -> None:
    """Print accuracy, size and cost of all models in one table; after any stage.

    It writes metrics.json too. CHECKPOINTS are measured now, on the same data, and added.

    \b
    Example: python -m tp_vgg compare --dataset digits --format markdown
    """
    for path in checkpoints:
        check_file("CHECKPOINT", path)
    click.echo(render_comparison(compare(settings, checkpoints), form, width=width))
