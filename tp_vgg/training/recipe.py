"""How to train, as data, and the learning rate of every step (no torch)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

Schedule = Literal["one-cycle", "triangular", "rewind"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)
FIRST = 1 / 25
"""Of the peak rate: where a cycle begins, as in torch's ``OneCycleLR``."""
LAST = FIRST / 1e4
"""Of the peak rate: where it ends."""


@dataclass(frozen=True)
class Recipe:
    """How to train. SGD with Nesterov momentum, label smoothing, decoupled weight decay on convs and linears."""

    epochs: int
    lr: float
    """Peak learning rate."""
    batch_size: int = 128
    """Images a step, over all processes."""
    schedule: Schedule = "one-cycle"
    """``one-cycle`` anneals by cosine (Smith & Topin 2018), ``triangular`` by straight lines; ``rewind`` repeats the end of a one-cycle of
    ``rewound`` epochs (Renda et al. 2020: learning-rate rewinding)."""
    warmup: float = 0.2
    """Fraction of the cycle's steps before the peak."""
    rewound: int = 0
    """Epochs of the cycle whose end ``rewind`` repeats; at least ``epochs``."""
    momentum: float = 0.9
    weight_decay: float = 5e-3
    """Decoupled: a step shrinks weights by lr · weight_decay (5e-3 acts as the classical 5e-4 at momentum 0.9)."""
    label_smoothing: float = 0.1
    seed: int = 0
    distill_weight: float = 0.0
    """Share of the teacher's loss, in [0, 1]; 0 needs no teacher. Source: Hinton et al. 2015."""
    distill_temperature: float = 4.0

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of the step after ``step`` steps."""
        if self.schedule == "rewind":
            whole = max(self.rewound, self.epochs)
            return replace(self, schedule="one-cycle", epochs=whole).rate(
                step + (whole - self.epochs) * steps_per_epoch, steps_per_epoch
            )
        total = self.epochs * steps_per_epoch
        peak = max(self.warmup * total, 1)
        rising = step < peak
        share = step / peak if rising else (step - peak) / max(total - peak, 1)
        if self.schedule == "one-cycle":
            share = (1 - math.cos(math.pi * share)) / 2
        start, end = (FIRST, 1.0) if rising else (1.0, LAST)
        return self.lr * (start + (end - start) * share)
