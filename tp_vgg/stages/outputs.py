"""Figures and scalars: PNG files always, TensorBoard's where it was asked for."""

from __future__ import annotations

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

SCALARS = {
    "train_loss": "loss/train",
    "train_accuracy": "accuracy/train",
    "val_accuracy": "accuracy/val",
    "lr": "rate",
}
"""Names in TensorBoard by field of :class:`~tp_vgg.training.history.Epoch`."""


def keep_figure(settings: Settings, run: RunDir, name: str, figure: Figure) -> Path:
    """Save a figure under ``plots/``, and show it to TensorBoard. Returns its path."""
    path = run.plot(name)
    save_png(figure, path)
    if settings.tensorboard:
        with _writer(run, "figures") as writer:
            writer.add_figure(name, figure)
    return path


@contextmanager
def scalars(settings: Settings, run: RunDir, training: str) -> Iterator[Callable[[Epoch], None]]:
    """What to call with each epoch of a ``training``, so that TensorBoard shows it as it ends."""
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
