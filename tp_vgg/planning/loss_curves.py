"""From a sweep to what pruning a layer costs at any level, and several layers together (no torch)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tp_vgg.network.families import spec_from_dict
from tp_vgg.sensitivity.table import Sensitivity

if TYPE_CHECKING:
    import numpy as np


MIN_SURVIVAL = 1e-4
"""Of what is known above chance: a layer's loss is reckoned as if this survived at least."""


@dataclass(frozen=True)
class LossCurves:
    """The loss of each swept layer over its level, and how losses add up.

    The unit of loss is −log of the share that survives of what the dense model knows above chance: (accuracy − chance) ÷ (dense
    accuracy − chance). Summed over layers it says that each layer leaves its share of what the others left. For small drops that is the
    sum of the drops; large ones saturate at chance, where a sum of points would pass 100. It is a first-order correction: layers may
    do each other more harm than that (what one pruned layer disturbs, the next amplifies), which only a run shows.

    Between the levels the drop is interpolated linearly, from a drop of 0 at level 0, after isotonic regression (Barlow et al. 1972, by
    scipy): a sweep's counts rise and fall by chance, and no layer gains by losing more. Above the highest level swept nothing is said.
    """

    levels: dict[str, tuple[float, ...]]
    """Fractions of the layer's channels or weights, as realised; rising, from 0."""
    drops: dict[str, tuple[float, ...]]
    """Percentage points, never falling, from 0."""
    accuracy: float
    """Of the dense model, percent."""
    chance: float
    """Percent."""

    @classmethod
    def of(cls, table: Sensitivity) -> LossCurves:
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
        """Percentage points lost with ``layer`` alone at ``level``, which is not above the highest one swept."""
        import numpy as np

        return np.asarray(np.interp(level, self.levels[layer], self.drops[layer]))

    def loss(self, drop: float | np.ndarray) -> np.ndarray:
        """Percentage points as loss; finite also where nothing is left above chance (as of one image in 10,000)."""
        import numpy as np

        known = max(self.accuracy - self.chance, 1e-9)
        return np.asarray(-np.log(np.clip(1 - np.asarray(drop) / known, MIN_SURVIVAL, 1.0)))

    @property
    def most(self) -> float:
        """The drop, percentage points, from which on a loss grows no more."""
        return (self.accuracy - self.chance) * (1 - MIN_SURVIVAL)

    def drop_of(self, loss: float) -> float:
        """Loss as percentage points."""
        return (self.accuracy - self.chance) * -math.expm1(-loss)
