"""The sensitivity table is the result of a sweep: one point for each layer and level."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tp_vgg.errors import BadInput, first_of
from tp_vgg.evaluation.accuracy import Accuracy, check_counts
from tp_vgg.files.checks import choice, type_name
from tp_vgg.files.schema import typed
from tp_vgg.network.families import spec_from_dict
from tp_vgg.pruning.criteria import Kind
from tp_vgg.pruning.repairs import Repair
from tp_vgg.stats import paired_difference

if TYPE_CHECKING:
    import numpy as np

SENSITIVITY = "tp_vgg/sensitivity/2"
"""Format of a sweep's table and part of its key; its number rises when counts may change."""
LEVELS = tuple(i / 10 for i in range(1, 10))
"""Default ratios or sparsities of a sweep."""


def with_repair(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a table or plan with its ``repair``, which older versions lack."""
    return {"repair": "recalibrate" if data.get("recalibrated") else "none", **data}


def _rises(levels: tuple[float, ...]) -> bool:
    return levels[0] >= 0 and levels[-1] < 1 and all(a < b for a, b in itertools.pairwise(levels))


@dataclass(frozen=True)
class Point:
    """A point is the result of a sweep for one layer at one level.

    Accuracies are percentages in [0, 100]. Drops are percentage points, positive if accuracy was
    lost. Intervals are at 95 %.
    """

    layer: str
    ratio: float
    """Requested fraction of the layer's channels removed (structured) or weights zeroed."""
    removed: int
    """Number of channels removed or weights zeroed."""
    correct: int
    """Images classified correctly."""
    n: int
    """Images evaluated."""
    accuracy: float
    low: float
    """Lower end of the accuracy's Wilson interval."""
    high: float
    """Upper end of that interval."""
    drop: float
    """Accuracy lost against the dense model on the same images."""
    drop_low: float
    """Lower end of the drop's paired interval."""
    drop_high: float
    """Upper end of that interval."""
    redone: int
    """Images classified again in fp32 because bf16 was too close to call; 0 if not screened."""

    def __repr__(self) -> str:
        return (
            f"<Point {self.layer} at {self.ratio:g}: accuracy {self.accuracy:.2f} % "
            f"[{self.low:.2f}, {self.high:.2f}], drop {self.drop:.2f} "
            f"[{self.drop_low:.2f}, {self.drop_high:.2f}] points, {self.removed:,} removed>"
        )

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
        """Return the point of a pruned model from its hits and the dense model's.

        ``hits`` and ``dense_hits``: bool ``[n]``, True if the prediction was right, for the same
        images in the same order.
        """
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
    """A sensitivity table holds a finished sweep: every layer at every level, in network order."""

    key: str
    """Fingerprint of the weights, images and options; if the sweep was made by
    :func:`~tp_vgg.sensitivity.sweep.sweep`, of the precision and the kind of device too."""
    kind: Kind
    importance: str
    precision: str
    """``fp32``, ``bf16``, or ``screened``: bf16, and fp32 for images too close to call."""
    spec: dict[str, Any]
    """Architecture of the dense model, as its ``to_dict`` gives it."""
    baseline: Accuracy
    """Accuracy of the dense model on the same images."""
    points: tuple[Point, ...]
    repair: Repair = "none"
    """What corrected the network behind the pruned layer at every point."""
    repair_linear: bool = False
    """Whether that was done to the zeroed weights of hidden linear layers too."""

    def __repr__(self) -> str:
        levels = [f"{level:g}" for level in sorted({point.ratio for point in self.points})]
        span = f"{levels[0]} to {levels[-1]}" if len(levels) > 1 else first_of(levels)
        worst = max(self.points, key=lambda point: point.drop, default=None)
        return (
            f"<Sensitivity: {self.kind}, {self.importance}, {self.precision}: {len(self.layers)} "
            f"layers at {len(levels)} levels ({span}), largest drop "
            f"{f'{worst.drop:.2f} points ({worst.layer} at {worst.ratio:g})' if worst else 'none'};"
            f" dense {self.baseline!r}>"
        )

    @property
    def layers(self) -> tuple[str, ...]:
        """Return the names of the swept layers, in network order."""
        return tuple(dict.fromkeys(point.layer for point in self.points))

    @property
    def sizes(self) -> dict[str, int]:
        """Return the channels (structured) or weights of each layer that a plan may name."""
        spec = spec_from_dict(self.spec)
        if self.kind == "structured":
            return dict(spec.prunable)
        return {row.name: row.weights for row in spec.rows if row.name in spec.prunable}

    def of_layer(self, layer: str) -> tuple[Point, ...]:
        """Return the points of one layer, by rising ratio.

        Raises :class:`BadInput` for a layer that was not swept.
        """
        choice("layer", layer, self.layers)
        return tuple(point for point in self.points if point.layer == layer)

    def cost_removed(self, point: Point) -> tuple[float, float]:
        """Return the fractions of the network's (MACs, params) that the point removes, in [0, 1].

        A zeroed weight counts as removed. Raises :class:`BadInput` for what is no point.
        """
        if not isinstance(point, Point):
            raise BadInput(f"point: must be one of .points, got {type_name(point)}")
        spec = spec_from_dict(self.spec)
        if self.kind == "structured":
            left = spec.with_widths({point.layer: spec.prunable[point.layer] - point.removed})
            return 1 - left.macs() / spec.macs(), 1 - left.params() / spec.params()
        row = next(row for row in spec.rows if row.name == point.layer)
        return point.removed * row.side**2 / spec.macs(), point.removed / spec.params()

    def to_dict(self) -> dict[str, Any]:
        """Return the table in plain types, as the ``.pth`` file and the record hold it."""
        return {
            "format": SENSITIVITY,
            **asdict(self),
            "points": [asdict(point) for point in self.points],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Sensitivity:
        """Return the table that :meth:`to_dict` wrote; extra fields are ignored.

        Raises ``TypeError``, ``KeyError``, ``ValueError`` or :class:`BadInput` if ``data`` can't be
        the result of a sweep.
        """
        if data["format"] != SENSITIVITY:
            raise ValueError("not a table of this version")
        table = typed(cls, with_repair(data), more=True)
        table._check()
        return table

    def _check(self) -> None:
        """Raise ``ValueError`` or ``KeyError`` if the table contradicts itself or its network.

        Accuracies and drops must follow from the counts, every layer must be in the network, and
        all layers must have the same rising levels.
        """
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
            raise ValueError("levels that do not rise within [0, 1), or differ between layers")
        if self.precision not in ("fp32", "bf16", "screened") or not re.fullmatch(
            r"\w+", self.importance, re.ASCII
        ):
            raise ValueError(f"{self.precision!a}, {self.importance!a}")

    @property
    def removed(self) -> dict[str, tuple[int, ...]]:
        """Return the number of channels or weights removed, by layer and rising ratio."""
        return {
            layer: tuple(point.removed for point in self.of_layer(layer)) for layer in self.layers
        }

    def csv(self) -> str:
        """Return the text of ``<kind>_sensitivity.csv``: a header, then one row for each point."""
        columns = ("layer", "ratio", "correct", "n", "accuracy", "low", "high", "drop")
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([getattr(point, column) for column in columns] for point in self.points)
        return out.getvalue()
