"""How long and how fast to train where the user says nothing (no torch before it is asked)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tp_vgg.network.spec import Spec
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.options import Finetune, StructuredOptions
from tp_vgg.training.recipe import Recipe

BASELINE_EPOCHS = {"small": 3, "cpu": 12, "cuda": 24}
"""Of a small data set, or else by device: an epoch that takes seconds on CUDA takes minutes on a CPU."""


def default_baseline_epochs(settings: Settings) -> int:
    """Raises :class:`BadInput` for a device that this machine lacks."""
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
    """How the dense model is trained where the user says nothing: the same on every device, but for fewer epochs on a CPU."""
    small = settings.images.small
    default_lr = (0.02 if small else 0.1) if spec.batch_norm else 0.01
    return Recipe(
        epochs=epochs or default_baseline_epochs(settings),
        lr=lr or default_lr,
        batch_size=batch_size or (32 if small else 128),
        seed=settings.seed,
    )


def finetune_recipe(
    settings: Settings,
    spec: Spec,
    epochs: int,
    finetune: Finetune,
    trained: Mapping[str, Any] | None = None,
) -> Recipe:
    """How a pruned or masked model is trained back: a lower, triangular rate, half of the loss from the dense model.

    ``trained``: how the dense model was trained, where its file says so (``meta["training"]``): what ``rewind`` rewinds;
    else the baseline recipe as it is on CUDA.
    """
    small = settings.images.small
    before = baseline_recipe(settings, spec, BASELINE_EPOCHS["small" if small else "cuda"])
    rate = 0.02 if spec.batch_norm else 0.005
    if finetune.schedule == "rewind":
        rate = float((trained or {}).get("lr", before.lr))
    return Recipe(
        epochs=epochs,
        lr=finetune.lr or rate,
        batch_size=finetune.batch_size or (64 if small else 128),
        schedule=finetune.schedule,
        rewound=int((trained or {}).get("epochs", before.epochs))
        if finetune.schedule == "rewind"
        else 0,
        seed=settings.seed,
        distill_weight=finetune.distill_weight if finetune.distill else 0.0,
        distill_temperature=finetune.distill_temperature,
    )


def structured_epochs(settings: Settings, options: StructuredOptions) -> int:
    """Epochs of fine-tuning in all: one a step at least, where the user says nothing."""
    usual = 2 if settings.images.small else 5
    return max(usual, options.steps) if options.finetune.epochs is None else options.finetune.epochs


def duration(seconds: float) -> str:
    """A rough time for people."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
