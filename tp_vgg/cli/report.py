"""The `report` command writes the page."""

from __future__ import annotations

import sys

import click

from tp_vgg.cli.command import Command
from tp_vgg.cli.options import common_options
from tp_vgg.machine.console import fitted
from tp_vgg.rundir.comparison import check_anything
from tp_vgg.rundir.contents import RunContents
from tp_vgg.rundir.settings import Settings


@click.command("report", cls=Command)
@common_options
def command(settings: Settings) -> None:
    """Write one HTML page of all results, with a slider per layer; after any stage.

    \b
    Example: python -m tp_vgg report --dataset digits
    """
    if settings.checkpoint is None:
        check_anything(RunContents.of(settings))

    from tp_vgg.stages.report import report

    path = report(settings)
    size = path.stat().st_size
    line = f"{path}: {size:,} bytes; open it in a browser, no network is needed"
    click.echo(fitted(line, sys.stdout))
