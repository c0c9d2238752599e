from __future__ import annotations

from typing import Literal

import click

from tp_vgg.cli import leads
from tp_vgg.cli.options import common_options, tensorboard_option
from tp_vgg.criteria import CRITERIA
from tp_vgg.errors import BadInput
from tp_vgg.records import LEVELS, Sensitivity
from tp_vgg.spec import Kind
from tp_vgg.stages.options import SweepOptions
from tp_vgg.stages.settings import Settings, expected_spec
from tp_vgg.tables import text_table


@click.command("sensitivity")
@common_options
@tensorboard_option
@click.option(
    "--kind", type=click.Choice(["unstructured", "structured"]), required=True, help="Zero weights, or remove channels."
)
@click.option(
    "--levels",
    default=",".join(f"{level:g}" for level in LEVELS),
    show_default=True,
    metavar="R,R,…",
    help="Ratios or sparsities, each in [0, 1).",
)
@click.option(
    "--split", type=click.Choice(["val", "test"]), default="val", show_default=True, help="Images to evaluate on."
)
@click.option(
    "--importance", type=click.Choice(list(CRITERIA)), default="l1", show_default=True, help="How channels are ranked."
)
@click.option("--layers", metavar="NAME,NAME,…", help="Convs or hidden linears, or all (every conv).")
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
    options = SweepOptions(kind, _levels(levels), _names(layers), split, importance, recalibrate)
    if settings.checkpoint is None:
        options.check(expected_spec(settings))

    from tp_vgg.stages.sensitivity import sensitivity

    table = sensitivity(settings, options)
    if leads():
        click.echo(render_sensitivity(table))


def render_sensitivity(table: Sensitivity) -> str:
    """Drops by layer and ratio, in percentage points against the dense model."""
    base = table.baseline
    rows = []
    for layer in table.layers:
        points = table.of_layer(layer)
        redone = sum(point.redone for point in points) / sum(point.n for point in points)
        rows.append(
            [
                layer,
                *(f"{point.drop:+.2f}" for point in points),
                *([f"{redone:.1%}"] if table.precision == "screened" else []),
            ]
        )
    header = [f"{table.kind} drop", *(f"{point.ratio:g}" for point in table.of_layer(table.layers[0]))]
    if table.precision == "screened":
        header.append("redone in fp32")
    dense = f"dense: {base.accuracy:.2f} % [{base.low:.2f}, {base.high:.2f}] of {base.n} images; drops in percentage points, {table.precision}"
    return f"{dense}\n{text_table(header, rows)}"


def _levels(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise BadInput(
            f"--levels: {text[:80]!a}: give fractions in [0, 1) with commas between, such as 0.1,0.5,0.9"
        ) from None


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(dict.fromkeys(name.strip() for name in text.split(",")))
