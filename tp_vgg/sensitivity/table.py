"""The table of a sweep."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tp_vgg.evaluation.accuracy import Accuracy, check_counts
from tp_vgg.files.schema import typed
from tp_vgg.network.families import spec_from_dict
from tp_vgg.pruning.criteria import Kind
from tp_vgg.stats import paired_difference

if TYPE_CHECKING:
    import numpy as np

SENSITIVITY = "tp_vgg/sensitivity/2"
"""Format of a sweep's table, and part of its key: raised when the same sweep may count otherwise."""
LEVELS = tuple(i / 10 for i in range(1, 10))
"""Ratios or sparsities of a sweep where the user says nothing."""


def _rises(levels: tuple[float, ...]) -> bool:
    return levels[0] >= 0 and levels[-1] < 1 and all(a < b for a, b in itertools.pairwise(levels))


@dataclass(frozen=True)
class Point:
    """One layer at one level of a sweep. Percentages in [0, 100]; drops in percentage points, positive where accuracy was lost."""

    layer: str
    ratio: float
    """Of the layer's channels removed (structured) or weights zeroed (unstructured), as asked."""
    removed: int
    """Channels or weights that this came to."""
    correct: int
    n: int
    accuracy: float
    low: float
    high: float
    drop: float
    """Against the dense model on the same images."""
    drop_low: float
    drop_high: float
    redone: int
    """Images classified again in fp32 because bf16 left them too close to call; 0 where one precision did all."""

    @classmethod
    def of(
        cls,
        layer: str,
        ratio: float,
        removed: int,
        hits: np.ndarray,
        dense_hits: np.ndarray,
        redone: int = 0,
    ) -> Point:
        """From the images that the pruned and the dense model got right, bool [n] each."""
        n, lost, gained = (
            len(hits),
            int((dense_hits & ~hits).sum()),
            int((hits & ~dense_hits).sum()),
        )
        accuracy = Accuracy.of(int(hits.sum()), n)
        low, high = paired_difference(lost, gained, n)
        drop = 100 * (lost - gained) / n
        return cls(
            layer,
            ratio,
            removed,
            **asdict(accuracy),
            drop=drop,
            drop_low=100 * low,
            drop_high=100 * high,
            redone=redone,
        )


@dataclass(frozen=True)
class Sensitivity:
    """A finished sweep: every layer at every level, raw, in the order of the network."""

    key: str
    """Fingerprint of weights, images, levels, layers, importance, seed and precision."""
    kind: Kind
    importance: str
    precision: str
    """``fp32``, ``bf16``, or ``screened``: bf16, and fp32 where that was too close to call."""
    spec: dict[str, Any]
    """Of the dense model."""
    baseline: Accuracy
    """Of the dense model on the same images."""
    points: tuple[Point, ...]
    recalibrated: bool = False
    """At every point, batch norm behind the pruned layer had statistics of its own."""

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(point.layer for point in self.points))

    @property
    def sizes(self) -> dict[str, int]:
        """Channels (structured) or weights of every layer that a plan may name."""
        spec = spec_from_dict(self.spec)
        if self.kind == "structured":
            return dict(spec.prunable)
        return {row.name: row.weights for row in spec.rows if row.name in spec.prunable}

    def of_layer(self, layer: str) -> tuple[Point, ...]:
        """The points of one layer, by rising ratio."""
        return tuple(point for point in self.points if point.layer == layer)

    def cost_removed(self, point: Point) -> tuple[float, float]:
        """Fractions of the whole network's (MACs, params) that the point takes out; a zeroed weight counts as taken out."""
        spec = spec_from_dict(self.spec)
        if self.kind == "structured":
            left = spec.with_widths({point.layer: spec.prunable[point.layer] - point.removed})
            return 1 - left.macs() / spec.macs(), 1 - left.params() / spec.params()
        row = next(row for row in spec.rows if row.name == point.layer)
        return point.removed * row.side**2 / spec.macs(), point.removed / spec.params()

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, as the ``.pth`` and the record hold it."""
        return {
            "format": SENSITIVITY,
            **asdict(self),
            "points": [asdict(point) for point in self.points],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Sensitivity:
        """The inverse of :meth:`to_dict`, which may have had fields added.

        Raises ``TypeError``, ``KeyError``, ``ValueError`` or :class:`BadInput` for anything that no sweep can have found.
        """
        if data["format"] != SENSITIVITY:
            raise ValueError("not a table of this version")
        table = typed(cls, data, more=True)
        table._check()
        return table

    def _check(self) -> None:
        """The counts and what follows from them agree, the layers are the network's, and each has the same rising levels."""
        sizes = self.sizes
        check_counts(self.baseline)
        for point in self.points:
            check_counts(point)
            drop = 100 * (self.baseline.correct - point.correct) / self.baseline.n
            if (
                point.n != self.baseline.n
                or point.drop != drop
                or not point.drop_low <= drop <= point.drop_high
            ):
                raise ValueError(
                    f"{point.layer!a}: {point.drop} in [{point.drop_low}, {point.drop_high}]"
                )
            if not 0 <= point.removed < sizes[point.layer] or not 0 <= point.redone <= point.n:
                raise ValueError(f"{point.layer}: removed {point.removed}, redone {point.redone}")
        levels = {tuple(point.ratio for point in self.of_layer(layer)) for layer in self.layers}
        if len(levels) != 1 or not _rises(levels.pop()):
            raise ValueError("levels that no sweep asks for")
        if self.precision not in ("fp32", "bf16", "screened") or not re.fullmatch(
            r"\w+", self.importance, re.ASCII
        ):
            raise ValueError(f"{self.precision!a}, {self.importance!a}")

    @property
    def removed(self) -> dict[str, tuple[int, ...]]:
        """Channels or weights, by layer and rising ratio."""
        return {
            layer: tuple(point.removed for point in self.of_layer(layer)) for layer in self.layers
        }

    def csv(self) -> str:
        """``<kind>_sensitivity.csv``: a header and one row a point (the contract's columns)."""
        columns = ("layer", "ratio", "correct", "n", "accuracy", "low", "high", "drop")
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([getattr(point, column) for column in columns] for point in self.points)
        return out.getvalue()
