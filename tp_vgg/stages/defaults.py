"""These are the defaults of epochs, learning rate and batch size, used if the user gives none.

torch is imported only when a default depends on the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tp_vgg.network.spec import Spec
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.options import Finetune, StructuredOptions
from tp_vgg.training.recipe import Recipe

BASELINE_EPOCHS = {"small": 3, "cpu": 12, "cuda": 24}
"""Epochs of the dense model: for a small data set, else by device.

An epoch that takes seconds on CUDA takes minutes on a CPU."""


def default_baseline_epochs(settings: Settings) -> int:
    """Return the default number of epochs of the dense model.

    It depends on the device unless the data set is small. Raises
    :class:`~tp_vgg.errors.BadInput` if this machine lacks that device.
    """
    if settings.images.small:
        return BASELINE_EPOCHS["small"]
    from tp_vgg.machine.device import pick_device

    return BASELINE_EPOCHS[pick_device(settings.device).type]


def baseline_recipe(
    settings: Settings,
    spec: Spec,
    epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
) -> Recipe:
    """Return the recipe of the dense model; arguments that are ``None`` take their defaults.

    The defaults are the same on every device, except that a CPU gets fewer epochs.
    """
    small = settings.images.small
    default_lr = (0.02 if small else 0.1) if spec.batch_norm else 0.01
    return Recipe(
        epochs=epochs or default_baseline_epochs(settings),
        lr=lr or default_lr,
        batch_size=batch_size or (32 if small else 128),
        seed=settings.seed,
    )


_FULL_RATE_EPOCHS = 4
"""Epochs from which on a repaired network is fine-tuned at the full rate (docs/results.md)."""


def finetune_rate(settings: Settings, spec: Spec, epochs: int, *, refitted: bool) -> float:
    """Return the default peak learning rate of a fine-tuning over ``epochs``.

    ``refitted``: channels were removed and the weights refitted. A short training at a high rate
    loses what that gained, so the rate of a network with batch norm then falls in proportion to the
    epochs, unless the data set is so small that an epoch has few steps. With zeros, the full rate
    does better.

    Source: Zimmer et al. 2023 (BIMP, ALLR): the rate follows the length of the training.
    """
    if not spec.batch_norm:
        return 0.005
    if settings.images.small or not refitted or not epochs:
        return 0.02
    return 0.02 * min(epochs / _FULL_RATE_EPOCHS, 1)


def finetune_recipe(
    settings: Settings,
    spec: Spec,
    epochs: int,
    finetune: Finetune,
    trained: Mapping[str, Any] | None = None,
    *,
    refitted: bool = False,
) -> Recipe:
    """Return the recipe by which a pruned or masked model is fine-tuned for ``epochs``.

    By default, the learning rate is lower than the baseline's and follows a triangle, and half of
    the loss is distilled from the dense model. ``refitted``: see :func:`finetune_rate`.

    ``trained``: the recipe of the dense model (``meta["training"]``), if its file holds one. The
    schedule ``rewind`` repeats its end; without it, the end of the default recipe on CUDA.
    """
    small = settings.images.small
    default = baseline_recipe(settings, spec, BASELINE_EPOCHS["small" if small else "cuda"])
    rate = finetune_rate(settings, spec, epochs, refitted=refitted)
    if finetune.schedule == "rewind":
        rate = float((trained or {}).get("lr", default.lr))
    return Recipe(
        epochs=epochs,
        lr=finetune.lr or rate,
        batch_size=finetune.batch_size or (64 if small else 128),
        schedule=finetune.schedule,
        rewound=int((trained or {}).get("epochs", default.epochs))
        if finetune.schedule == "rewind"
        else 0,
        seed=settings.seed,
        distill_weight=finetune.distill_weight if finetune.distill else 0.0,
        distill_temperature=finetune.distill_temperature,
    )


def structured_epochs(settings: Settings, options: StructuredOptions) -> int:
    """Return the epochs of fine-tuning over all steps; by default at least one per step."""
    if options.finetune.epochs is not None:
        return options.finetune.epochs
    return max(default_finetune_epochs(settings), options.steps)


def default_finetune_epochs(settings: Settings) -> int:
    """Return the default number of epochs of fine-tuning after one pruning."""
    return 2 if settings.images.small else 5


def duration(seconds: float) -> str:
    """Return a rounded duration for people, such as ``45 s``, ``12 min`` or ``2.5 h``."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
