from __future__ import annotations

from typing import Literal

import click

from tp_vgg.cli import is_main_process
from tp_vgg.cli.options import common_options, listed, tensorboard_option
from tp_vgg.errors import BadInput
from tp_vgg.pruning.criteria import CRITERIA, Kind
from tp_vgg.pruning.repair import Repair
from tp_vgg.report.tables import render_sensitivity
from tp_vgg.rundir.contents import expected_spec
from tp_vgg.rundir.settings import Settings
from tp_vgg.sensitivity.question import SweepQuestion
from tp_vgg.sensitivity.table import LEVELS


@click.command("sensitivity")
@common_options
@tensorboard_option
@click.option(
    "--kind",
    type=click.Choice(["unstructured", "structured"]),
    required=True,
    help="Zero weights, or remove channels.",
)
@click.option(
    "--levels",
    default=",".join(f"{level:g}" for level in LEVELS),
    show_default=True,
    metavar="R,R,…",
    help="Ratios or sparsities, each in [0, 1).",
)
@click.option(
    "--split",
    type=click.Choice(["val", "test"]),
    default="val",
    show_default=True,
    help="Images to evaluate on.",
)
@click.option(
    "--importance",
    type=click.Choice(list(CRITERIA)),
    default="l1",
    show_default=True,
    help="How channels are ranked.",
)
@click.option(
    "--layers", metavar="NAME,NAME,…", help="Convs or hidden linears, or all (every conv)."
)
@click.option(
    "--recalibrate",
    is_flag=True,
    help="New statistics for the batch norms behind the pruned layer at every point: for `plan`.",
)
def command(
    settings: Settings,
    kind: Kind,
    levels: str,
    split: Literal["val", "test"],
    importance: str,
    layers: str | None,
    recalibrate: bool,
) -> None:
    """Sweep every layer and ratio: which layers can bear pruning.

    Each point is the accuracy of the network with that one layer pruned. Finished layers are journaled: an interrupted sweep goes on
    from there, and a finished one is not done again. Precision "auto" on a GPU with bf16 hardware classifies in bf16, and again in
    fp32 what was too close to call; elsewhere it is fp32.

    Memory: besides torch and the data set, the activations of all images (66 KB an image for VGG-11 at full width, 655 MB for 10,000;
    four times that for the deeper ones), taken in parts where they would pass half of the free memory, and under 1 GB for the levels in hand.

    \b
    Example: python -m tp_vgg sensitivity --kind structured --dataset digits
    Several processes: torchrun --nproc-per-node 2 -m tp_vgg sensitivity --kind structured
    """
    repair: Repair = "recalibrate" if recalibrate else "none"
    question = SweepQuestion(
        kind,
        _levels(levels),
        None if layers is None else tuple(dict.fromkeys(listed(layers))),
        importance,
        repair,
        settings.seed,
        settings.precision,
    )
    if settings.checkpoint is None:
        question.removed(expected_spec(settings))

    from tp_vgg.stages.sensitivity import sensitivity

    table = sensitivity(settings, question, split)
    if is_main_process():
        click.echo(render_sensitivity(table))


def _levels(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise BadInput(
            f"--levels: {text[:80]!a}: give fractions in [0, 1) with commas between, such as 0.1,0.5,0.9"
        ) from None
