"""One trainer serves the baseline, masked networks and pruned networks.

A training can be interrupted and resumed at any step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from torch import nn

from tp_vgg.machine.console import progress_bar
from tp_vgg.machine.interrupts import interrupts
from tp_vgg.machine.precision import exact_fp32
from tp_vgg.training.history import Epoch
from tp_vgg.training.run import TrainingRun
from tp_vgg.training.setup import TrainingSetup

SAVE_EVERY = 60.0
"""Seconds between two saves of unfinished work; a killed process loses about that much at most."""
CHECK_EVERY = {"cpu": 20, "cuda": 100}
"""Steps between two checks that the loss is finite, by device (each check waits for the device)."""


def fit(
    model: nn.Module,
    setup: TrainingSetup,
    *,
    partial: Path | None = None,
    label: str = "training",
    quiet: bool = False,
    epoch_done: Callable[[Epoch], object] = lambda _: None,
) -> list[Epoch]:
    """Train ``model`` in place and return its epochs.

    The model is left in eval mode with the weights of its best epoch on the val images.

    ``partial`` is the file for unfinished work. It is saved each minute and on Ctrl-C; the caller
    removes it once the result is under its final name. A rerun with the same weights, data and
    recipe resumes from it and ends at the same numbers. ``label`` names the progress bar; ``quiet``
    means no bar. ``epoch_done`` is called with each epoch that ends in this process.

    Raises ``KeyboardInterrupt`` on Ctrl-C, after saving. Raises
    :class:`~tp_vgg.errors.WorkFailed` if the loss, the model or its logits on the val images are
    not finite; ``partial``, if given, then holds the last good epoch, if there was one.
    """
    run, ranks = TrainingRun(model, setup, partial), setup.ranks
    run.resume()
    total = setup.recipe.epochs * len(setup.data.train)
    with (
        interrupts() as interrupted,
        exact_fp32(),
        progress_bar(label, unit="img", quiet=quiet, total=total, initial=run.images_done()) as bar,
    ):
        last_save = time.monotonic()
        while run.step < run.total_steps:
            seen = run.train_step()
            bar.update(seen)
            if run.step % CHECK_EVERY[setup.device.type] == 0 or run.at_epoch_end:
                loss_sum, hits = run.check_finite()
                if run.at_epoch_end:
                    run.end_epoch("" if quiet else "val")
                    epoch_done(run.history[-1])
                bar.set_postfix(run.progress(loss_sum, hits))
            stop, due = ranks.any(
                bool(interrupted), time.monotonic() - last_save > SAVE_EVERY, device=setup.device
            )
            if stop or due:
                run.check_finite()
                run.save(run.snapshot())
                last_save = time.monotonic()
            if stop:
                where_saved = f"; {partial} holds the work so far" if partial else ""
                raise KeyboardInterrupt(
                    f"{label} stopped at step {run.step} of {run.total_steps}{where_saved}"
                )
    return run.finish()


def steps_alone(model: nn.Module, setup: TrainingSetup) -> Callable[[], int]:
    """Return a function that runs one training step of :func:`fit` per call, for timing.

    A call trains ``model`` on the next batch and returns the number of its images. Nothing is
    checked, validated or saved. All ranks of the setup must take part in every step.
    """
    return TrainingRun(model, setup).train_step
