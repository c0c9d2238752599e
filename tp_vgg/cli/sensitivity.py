"""The `sensitivity` command sweeps layers and ratios."""

from __future__ import annotations

from typing import Literal, get_args

import click

from tp_vgg.cli.arguments import listed
from tp_vgg.cli.command import Command, option
from tp_vgg.cli.options import common_options, repair_of, tensorboard_option, wide_option
from tp_vgg.errors import BadInput
from tp_vgg.machine.console import is_main_process
from tp_vgg.pruning.criteria import CRITERIA, Kind
from tp_vgg.pruning.repairs import Repair
from tp_vgg.report.plan_tables import render_sensitivity
from tp_vgg.rundir.expected import expected_spec
from tp_vgg.rundir.settings import Settings
from tp_vgg.sensitivity.question import SweepQuestion
from tp_vgg.sensitivity.table import LEVELS


@click.command("sensitivity", cls=Command)
@common_options
@option(
    "--kind",
    type=click.Choice(["unstructured", "structured"]),
    required=True,
    help="Set weights to zero, or remove channels.",
)
@option(
    "--levels",
    default=",".join(f"{level:g}" for level in LEVELS),
    metavar="R,R,…",
    help="Fractions to remove (channels) or to zero (weights), each in [0, 1).",
)
@option("--split", type=click.Choice(["val", "test"]), default="val", help="Images to evaluate on.")
@option(
    "--importance",
    type=click.Choice(list(CRITERIA)),
    default="l1",
    help="How channels are ranked.",
)
@option(
    "--layers",
    metavar="NAME,NAME,…",
    show_default="every conv",
    help="Layers to sweep, or `all` for convs and hidden linear layers.",
)
@option(
    "--repair",
    type=click.Choice(get_args(Repair)),
    default="none",
    help="At each point, refit the weights that the pruning changed or that read what it removed "
    "(reconstruct), or estimate batch norm's statistics anew behind the layer (recalibrate).",
)
@option("--recalibrate", is_flag=True, help="The same as --repair recalibrate.")
@option(
    "--repair-linear",
    is_flag=True,
    help="Refit zeroed hidden linear layers too, with --repair reconstruct; takes long.",
)
@tensorboard_option
@wide_option
def command(
    settings: Settings,
    kind: Kind,
    levels: str,
    split: Literal["val", "test"],
    importance: str,
    layers: str | None,
    repair: Repair,
    recalibrate: bool,
    repair_linear: bool,
    width: int | None,
) -> None:
    """Measure the accuracy drop of each layer at each ratio; `plan` needs it.

    Each point is the accuracy with one layer pruned and all others untouched. Finished layers are
    kept: an interrupted sweep continues, and a finished one is not repeated. On a GPU with bf16
    hardware, precision "auto" classifies in bf16 and repeats in fp32 what was too close to call.
    Elsewhere it is fp32.

    Memory: the activations of all images (66 KB per image for VGG-11, 655 MB for 10,000; four
    times that for deeper networks), in parts if they would fill half of the free memory, and the
    outputs of several levels (256 MB on a CPU, 4 GB on a GPU); besides torch and the data set.

    \b
    Example: python -m tp_vgg sensitivity --kind structured --dataset digits
    Or: torchrun --nproc-per-node 2 -m tp_vgg sensitivity --kind structured
    """
    question = SweepQuestion(
        kind,
        _levels(levels),
        None if layers is None else tuple(dict.fromkeys(listed(layers))),
        importance,
        repair_of(repair, recalibrate=recalibrate),
        repair_linear,
        settings.seed,
        settings.precision,
    )
    if settings.checkpoint is None:
        question.removed(expected_spec(settings))

    from tp_vgg.stages.sensitivity import sensitivity

    table = sensitivity(settings, question, split)
    if is_main_process():
        click.echo(render_sensitivity(table, width=width))


def _levels(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise BadInput(
            f"--levels: {text[:80]!a}: give fractions in [0, 1) with commas between, "
            "such as 0.1,0.5,0.9"
        ) from None
