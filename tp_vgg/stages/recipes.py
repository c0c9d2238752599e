"""How long and how fast to train where the user says nothing."""

from __future__ import annotations

from tp_vgg.spec import VGGSpec
from tp_vgg.stages.settings import Settings
from tp_vgg.train import Recipe


def baseline_recipe(
    settings: Settings, spec: VGGSpec, epochs: int | None = None, lr: float | None = None, batch_size: int | None = None
) -> Recipe:
    """How the dense model is trained where the user says nothing: short on digits, 24 epochs elsewhere."""
    small = settings.dataset == "digits"
    default_lr = (0.05 if small else 0.1) if spec.batch_norm else 0.01
    return Recipe(
        epochs=epochs or (5 if small else 24),
        lr=lr or default_lr,
        batch_size=batch_size or (64 if small else 128),
        seed=settings.seed,
    )


def finetune_recipe(
    settings: Settings,
    spec: VGGSpec,
    epochs: int,
    lr: float | None = None,
    batch_size: int | None = None,
    *,
    distill: bool = False,
) -> Recipe:
    """How a pruned or masked model is trained back: a lower, triangular rate; with ``distill``, half of the loss is
    the dense model's."""
    small = settings.dataset == "digits"
    return Recipe(
        epochs=epochs,
        lr=lr or (0.02 if spec.batch_norm else 0.005),
        batch_size=batch_size or (64 if small else 128),
        schedule="triangular",
        seed=settings.seed,
        distill_weight=0.5 if distill else 0.0,
    )


def default_finetune_epochs(settings: Settings) -> int:
    return 2 if settings.dataset == "digits" else 5


def duration(seconds: float) -> str:
    """A rough time for people."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
