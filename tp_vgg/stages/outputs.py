"""Figures are always saved as PNG files; TensorBoard gets figures and scalars on request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tp_vgg.report.figures import save_png
from tp_vgg.rundir.layout import RunDir
from tp_vgg.rundir.settings import Settings
from tp_vgg.training.history import Epoch

log = logging.getLogger(__name__)

SCALARS = {
    "train_loss": "loss/train",
    "train_accuracy": "accuracy/train",
    "val_accuracy": "accuracy/val",
    "lr": "rate",
}
"""Name of each scalar in TensorBoard, by field of :class:`~tp_vgg.training.history.Epoch`."""


def keep_figure(settings: Settings, run: RunDir, name: str, figure: Figure) -> Path:
    """Save a figure as ``plots/NAME.png`` of the run directory and return its path.

    A note names it. It is written for TensorBoard too if the settings ask for that.
    """
    path = run.plot(name)
    save_png(figure, path)
    log.info(f"wrote {path}")
    if settings.tensorboard:
        with _writer(run, "figures") as writer:
            writer.add_figure(name, figure)
    return path


@contextmanager
def scalars(settings: Settings, run: RunDir, training: str) -> Iterator[Callable[[Epoch], None]]:
    """Yield a function that writes an epoch for TensorBoard, to be called when the epoch ends.

    ``training`` names the training. Without TensorBoard the function does nothing.
    """
    if not settings.tensorboard:
        yield lambda _: None
        return
    with _writer(run, training) as writer:

        def write(epoch: Epoch) -> None:
            for field, name in SCALARS.items():
                writer.add_scalar(name, asdict(epoch)[field], epoch.epoch)
            writer.flush()

        yield write


def _writer(run: RunDir, name: str) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run.work / "tensorboard" / name))
