"""fit(): one trainer for the baseline, for masked networks and for pruned ones; resumable at any step."""

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
"""Seconds of work that a kill can cost at most."""
CHECK_EVERY = {"cpu": 20, "cuda": 100}
"""Steps between looks at the loss (each look waits for the device)."""


def fit(
    model: nn.Module,
    setup: TrainingSetup,
    *,
    partial: Path | None = None,
    label: str = "training",
    quiet: bool = False,
    epoch_done: Callable[[Epoch], object] = lambda _: None,
) -> list[Epoch]:
    """Train ``model`` in place on the train images and leave it, in eval mode, at its best epoch on the val images.

    ``partial``: where unfinished work is kept (saved each minute and on Ctrl-C, removed by the caller once the result is under its final
    name). A rerun with the same weights, data and recipe goes on from it and ends at the same numbers. ``epoch_done``: called with each
    epoch that ends in this process.

    Raises :class:`KeyboardInterrupt` after saving, and :class:`WorkFailed` where the loss, the model or its logits on the val images are
    not finite, with the last good epoch kept in ``partial``, if there is one.
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
                kept = f"; {partial} holds it" if partial else ""
                raise KeyboardInterrupt(
                    f"{label} stopped at step {run.step} of {run.total_steps}{kept}"
                )
    return run.finish()


def steps_alone(model: nn.Module, setup: TrainingSetup) -> Callable[[], int]:
    """The steps of a :func:`fit` and nothing else: each call trains ``model`` on one more batch. For those who time them.

    Each of the setup's ranks takes part in every step.
    """
    return TrainingRun(model, setup).train_step
