"""A recipe holds a training's hyperparameters and gives each step's learning rate.

This module does not import torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

Schedule = Literal["one-cycle", "triangular", "rewind"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)
START_FRACTION = 1 / 25
"""Learning rate at the start of a cycle, as a fraction of the peak (torch's ``OneCycleLR``)."""
END_FRACTION = START_FRACTION / 1e4
"""Learning rate at the end of a cycle, as a fraction of the peak."""


@dataclass(frozen=True)
class Recipe:
    """A recipe holds the hyperparameters of a training.

    Training minimises a cross-entropy with label smoothing. The optimiser is SGD with Nesterov
    momentum, and decoupled weight decay on the weights of convs and linears.
    """

    epochs: int
    lr: float
    """Peak learning rate."""
    batch_size: int = 128
    """Images per step, over all processes."""
    schedule: Schedule = "one-cycle"
    """Course of the learning rate.

    ``one-cycle`` rises and falls by cosines (Smith & Topin 2018), ``triangular`` by straight lines.
    ``rewind`` repeats the end of a one-cycle of ``rewound`` epochs (learning-rate rewinding, Renda
    et al. 2020).
    """
    warmup: float = 0.2
    """Fraction of the cycle's steps before the peak."""
    rewound: int = 0
    """Epochs of the one-cycle whose end ``rewind`` repeats; ``epochs`` if that is more."""
    momentum: float = 0.9
    weight_decay: float = 5e-3
    """Decoupled weight decay: a step shrinks the weights by the fraction lr · weight_decay.

    At momentum 0.9, 5e-3 acts as the classical 5e-4.
    """
    label_smoothing: float = 0.1
    seed: int = 0
    distill_weight: float = 0.0
    """Weight of the teacher's loss, in [0, 1]; 0 needs no teacher. Source: Hinton et al. 2015."""
    distill_temperature: float = 4.0
    """Temperature that softens the outputs of the teacher and of the trained network."""

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """Return the learning rate of the step that follows ``step`` finished steps."""
        if self.schedule == "rewind":
            cycle_epochs = max(self.rewound, self.epochs)
            return replace(self, schedule="one-cycle", epochs=cycle_epochs).rate(
                step + (cycle_epochs - self.epochs) * steps_per_epoch, steps_per_epoch
            )
        total = self.epochs * steps_per_epoch
        peak = max(self.warmup * total, 1)
        rising = step < peak
        progress = step / peak if rising else (step - peak) / max(total - peak, 1)
        if self.schedule == "one-cycle":
            progress = (1 - math.cos(math.pi * progress)) / 2
        start, end = (START_FRACTION, 1.0) if rising else (1.0, END_FRACTION)
        return self.lr * (start + (end - start) * progress)
