"""This module predicts the accuracy lost by pruning layers, from a sweep.

This module does not import torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tp_vgg.network.families import spec_from_dict
from tp_vgg.sensitivity.table import Sensitivity

if TYPE_CHECKING:
    import numpy as np


MIN_SURVIVAL = 1e-4
"""Least share of the accuracy above chance that is taken to survive in a layer.

It keeps every loss finite."""


@dataclass(frozen=True)
class LossCurves:
    """Loss curves give the loss of each swept layer at any level; losses of layers add up.

    The loss is −log of the surviving share of the accuracy above chance: (accuracy − chance) ÷
    (dense accuracy − chance). A sum of losses is a product of shares: each layer keeps its share of
    the accuracy that the others left. For small drops this is the sum of the drops. Large drops
    saturate at chance, where a sum of percentage points could pass 100. It is a first-order
    correction: layers may harm each other more than that, since the next layer may amplify the
    errors of a pruned one. Only a run shows it.

    Between the levels the drop is interpolated linearly, from a drop of 0 at level 0. Before that,
    isotonic regression (Barlow et al. 1972, by scipy) smooths the drops: they rise and fall by
    chance, but no layer gains accuracy by losing more. The curves end at the highest level swept.
    """

    levels: dict[str, tuple[float, ...]]
    """For each layer, the fractions of its channels or weights removed; rising, from 0."""
    drops: dict[str, tuple[float, ...]]
    """For each layer, the drops at these levels in percentage points; never falling, from 0."""
    accuracy: float
    """Accuracy of the dense model in percent."""
    chance: float
    """Accuracy of a random guess in percent, 100 ÷ classes; at most ``accuracy``."""

    @classmethod
    def of(cls, table: Sensitivity) -> LossCurves:
        """Fit the curves to a sweep."""
        from scipy.optimize import isotonic_regression

        spec = spec_from_dict(table.spec)
        sizes = table.sizes
        levels, drops = {}, {}
        for layer in table.layers:
            by_level = {
                point.removed / sizes[layer]: max(point.drop, 0.0)
                for point in table.of_layer(layer)
                if point.removed
            }
            ordered = sorted(by_level)
            fitted = (
                isotonic_regression([by_level[level] for level in ordered]).x if ordered else ()
            )
            levels[layer] = (0.0, *ordered)
            drops[layer] = (0.0, *(float(drop) for drop in fitted))
        return cls(
            levels,
            drops,
            table.baseline.accuracy,
            min(100 / spec.num_classes, table.baseline.accuracy),
        )

    def drop(self, layer: str, level: float | np.ndarray) -> np.ndarray:
        """Return the drop in percentage points with ``layer`` alone pruned at ``level``.

        ``level``: a fraction of its channels or weights, at most the highest one swept.
        """
        import numpy as np

        return np.asarray(np.interp(level, self.levels[layer], self.drops[layer]))

    def loss(self, drop: float | np.ndarray) -> np.ndarray:
        """Convert a drop in percentage points to a loss.

        The loss stays finite if no accuracy above chance is left (:data:`MIN_SURVIVAL`).
        """
        import numpy as np

        above_chance = max(self.accuracy - self.chance, 1e-9)
        return np.asarray(-np.log(np.clip(1 - np.asarray(drop) / above_chance, MIN_SURVIVAL, 1.0)))

    @property
    def most(self) -> float:
        """Return the drop in percentage points above which a loss grows no more."""
        return (self.accuracy - self.chance) * (1 - MIN_SURVIVAL)

    def drop_of(self, loss: float) -> float:
        """Convert a loss to a drop in percentage points."""
        return (self.accuracy - self.chance) * -math.expm1(-loss)

    def loss_within(self, drop: float) -> float:
        """Return the largest loss whose :meth:`drop_of` is at most ``drop``; it may be infinite."""
        above_chance = self.accuracy - self.chance
        return -math.log1p(-drop / above_chance) if drop < above_chance else math.inf
