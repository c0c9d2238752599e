"""Made-up sweeps of a small network, for tests of plans."""

from __future__ import annotations

import numpy as np

from tp_vgg.evaluation.accuracy import Accuracy
from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.pruning.criteria import Kind
from tp_vgg.pruning.ratios import removals
from tp_vgg.sensitivity.table import Point, Sensitivity

SPEC = VGGSpec((8, 16, 16, 24, 24, 24, 32, 32), hidden=(16,))
LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)


def table(
    spec: VGGSpec,
    kind: Kind = "structured",
    seed: int = 0,
    layers: tuple[str, ...] | None = None,
    *,
    n: int = 1000,
    dense: float = 0.9,
    steep: float = 1,
) -> Sensitivity:
    """A sweep shaped like real ones: drops rise with the level, with some noise.

    ``dense`` is the dense model's share of right answers; with ``steep=0`` no drop is seen.
    """
    rng = np.random.default_rng(seed)
    points = []
    right = round(dense * n)
    for layer, removed in removals(kind, spec, LEVELS, layers).items():
        height, power = rng.uniform(0.05, 0.8), rng.uniform(1, 4)
        for level, count in zip(LEVELS, removed, strict=True):
            lost = steep * (height * n * level**power + rng.normal(0, 3))
            correct = int(np.clip(right - lost, 0, n))
            a = Accuracy.of(correct, n)
            drop = 100 * (right - correct) / n
            points.append(
                Point(
                    layer, level, count, correct, n, a.accuracy, a.low, a.high, drop, drop, drop, 0
                )
            )
    return Sensitivity(
        "key", kind, "l1", "fp32", spec.to_dict(), Accuracy.of(right, n), tuple(points)
    )
