from __future__ import annotations

import click

from tp_vgg.cli import is_main_process, print_table
from tp_vgg.cli.options import COUNT, common_options, training_options
from tp_vgg.rundir.settings import Settings


@click.command("train")
@common_options
@click.option(
    "--epochs", type=COUNT, metavar="N", help="3 on digits, else 12 on a CPU, 24 on CUDA."
)
@click.option(
    "--weights",
    default="none",
    show_default=True,
    metavar="{none,imagenet,PATH}",
    help="Weights to start from.",
)
@training_options
def command(
    settings: Settings, epochs: int | None, weights: str, lr: float | None, batch_size: int | None
) -> None:
    """Train the dense baseline.

    \b
    Example: python -m tp_vgg train --dataset digits
    Several processes: torchrun --nproc-per-node 2 -m tp_vgg train --dataset digits
    """
    from tp_vgg.stages.train import train

    records = train(settings, epochs=epochs, lr=lr, batch_size=batch_size, weights=weights)
    if is_main_process():
        print_table(records)
