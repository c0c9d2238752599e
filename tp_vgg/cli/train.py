"""The `train` command trains the dense model."""

from __future__ import annotations

from pathlib import Path

import click

from tp_vgg.cli import print_table
from tp_vgg.cli.arguments import check_file
from tp_vgg.cli.command import Command, option
from tp_vgg.cli.options import common_options, training_options, wide_option
from tp_vgg.cli.value_types import COUNT, NAME_OR_PATH
from tp_vgg.errors import BadInput
from tp_vgg.machine.console import is_main_process
from tp_vgg.rundir.settings import Settings


@click.command("train", cls=Command)
@common_options
@option(
    "--epochs",
    type=COUNT,
    metavar="N",
    show_default="3 on digits, else 12 on a CPU, 24 on CUDA",
    help="Epochs of training.",
)
@option(
    "--weights",
    type=NAME_OR_PATH,
    default="none",
    metavar="{none,imagenet,PATH}",
    help="Weights to start from: random, torchvision's for ImageNet, or a file's.",
)
@training_options(
    "training",
    lr="0.1, or 0.02 on digits; without batch norm 0.01",
    batch_size="128, or 32 on digits",
)
@wide_option
def command(
    settings: Settings,
    epochs: int | None,
    weights: str,
    lr: float | None,
    batch_size: int | None,
    width: int | None,
) -> None:
    """Train the dense model; `run`, sweeps and pruning do this if there is none yet.

    \b
    Example: python -m tp_vgg train --dataset digits
    Or: torchrun --nproc-per-node 2 -m tp_vgg train --dataset digits
    """
    if settings.checkpoint is not None:
        raise BadInput(
            "--checkpoint: train makes a dense model; to start from a file give --weights PATH"
        )
    if weights == "imagenet" and settings.mean is not None:
        raise BadInput(
            "--mean, --std: torchvision's ImageNet weights have their own; leave them out"
        )
    if weights not in ("none", "imagenet"):
        check_file("--weights", Path(weights))

    from tp_vgg.stages.train import train

    records = train(settings, epochs=epochs, lr=lr, batch_size=batch_size, weights=weights)
    if is_main_process():
        print_table(records, width)
