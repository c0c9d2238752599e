"""The frozen tables that flow from stage to stage, and their JSON and CSV (no torch)."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tp_vgg.hitmap import unpack_hits
from tp_vgg.spec import Kind, VGGSpec
from tp_vgg.stats import paired_difference, wilson
from tp_vgg.typed import typed

if TYPE_CHECKING:
    import numpy as np

SENSITIVITY = "tp_vgg/sensitivity/2"
"""Format of a sweep's table, and part of its key: raised when the same sweep may count otherwise."""
LEVELS = tuple(i / 10 for i in range(1, 10))
"""Ratios or sparsities of a sweep where the user says nothing."""


@dataclass(frozen=True)
class Accuracy:
    """``correct`` of ``n`` images, with Wilson's 95 % interval; all three as percentages in [0, 100]."""

    correct: int
    n: int
    accuracy: float
    low: float
    high: float

    @classmethod
    def of(cls, correct: int, n: int) -> Accuracy:
        low, high = wilson(correct, n)
        return cls(correct, n, 100 * correct / n, 100 * low, 100 * high)

    def doubts(self, chance: float) -> tuple[str, ...]:
        """A sentence where it can't be told from ``chance``, in percent."""
        if self.low > chance:
            return ()
        return (f"accuracy can't be told from chance: {self.accuracy:.2f} % [{self.low:.2f}, {self.high:.2f}] where one class for all gives {chance:.2f} %",)  # fmt: skip


def _check_counts(found: Accuracy | Point) -> None:
    """What follows from the counts does; ``ValueError``."""
    count, n = found.correct, found.n
    if not 0 <= count <= n or n == 0 or found.accuracy != 100 * count / n:
        raise ValueError(f"{count} of {n}: {found.accuracy}")
    if not 0 <= found.low <= found.accuracy <= found.high <= 100:
        raise ValueError(f"{found.accuracy} in [{found.low}, {found.high}]")


@dataclass(frozen=True)
class ModelRecord:
    """What one saved model is and what it was measured at; one entry of ``metrics.json``."""

    checkpoint: str
    """Path relative to the run directory."""
    sha256: str
    """Of the checkpoint's bytes: a record that does not match its file is stale."""
    baseline: str | None
    """``sha256`` of the dense model that it was pruned from; ``None`` for a baseline."""
    key: str
    """Fingerprint of the settings that made it; empty for a file made elsewhere."""
    val: Accuracy
    test: Accuracy
    params: int
    nonzero: int
    """Parameters that are not exactly zero."""
    macs: int
    """Multiply-accumulates of conv and linear layers for one image."""
    bytes: int
    """Size of the file."""
    spec: dict[str, Any]
    sparsity: dict[str, float]
    """Fraction of exact zeros in each conv's and linear's weight."""
    data: dict[str, Any]
    """Data set, its fingerprint, and the number of images of each split."""
    environment: dict[str, str | int | None]
    peak_bytes: int
    """Peak memory of the stage: allocated on CUDA, resident on the CPU."""
    hits: str
    """Which test images it gets right, by :func:`~tp_vgg.hitmap.pack_hits`."""
    command: str
    """The command line that made it; empty from Python."""
    notes: tuple[str, ...] = ()

    def drop_against(self, dense: ModelRecord) -> tuple[float, float, float]:
        """Percentage points of test accuracy below ``dense``, measured on the same images, with the 95 % interval of the paired difference."""
        mine, before = unpack_hits(self.hits, self.test.n), unpack_hits(dense.hits, dense.test.n)
        lost, gained = int((before & ~mine).sum()), int((mine & ~before).sum())
        low, high = paired_difference(lost, gained, self.test.n)
        return 100 * (lost - gained) / self.test.n, 100 * low, 100 * high

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelRecord:
        """Raises ``TypeError``, ``KeyError`` or ``ValueError`` for anything that :meth:`to_dict` did not write, and for what no model can be."""
        record = typed(cls, data)
        record._check()
        return record

    def _check(self) -> None:
        spec = VGGSpec.from_dict(self.spec)
        _check_counts(self.val)
        _check_counts(self.test)
        if unpack_hits(self.hits, self.test.n).sum() != self.test.correct:
            raise ValueError("hits of another count than the accuracy's")
        if (self.params, self.macs) != (spec.params(), spec.macs()) or not 0 < self.nonzero <= self.params:
            raise ValueError(f"{self.nonzero} of {self.params} params, {self.macs} MACs of another network")
        if set(self.sparsity) != {row.name for row in spec.rows} or not all(
            0 <= v <= 1 for v in self.sparsity.values()
        ):
            raise ValueError("zeros of another network")
        if not all(type(self.data[name]) is str for name in ("dataset", "fingerprint")) or not _is_count(
            self.data["train"]
        ):
            raise TypeError("not what a record says of its images")
        if (self.data["val"], self.data["test"]) != (self.val.n, self.test.n) or not _is_count(self.bytes):
            raise ValueError("counts of other images")

    def metrics(self) -> dict[str, Any]:
        """The entry in ``metrics.json`` (the contract's names)."""
        return {
            "checkpoint": self.checkpoint,
            "accuracy": {
                "val": self.val.accuracy,
                "test": self.test.accuracy,
                "n_val": self.val.n,
                "n_test": self.test.n,
                "low": self.test.low,
                "high": self.test.high,
            },
            "params": self.params,
            "nonzero": self.nonzero,
            "macs": self.macs,
            "bytes": self.bytes,
            "widths": self.spec["widths"],
            "hidden": self.spec["hidden"],
            "sparsity": self.sparsity,
            "peak_bytes": self.peak_bytes,
            "notes": list(self.notes),
        }


def _rises(levels: tuple[float, ...]) -> bool:
    return levels[0] >= 0 and levels[-1] < 1 and all(a < b for a, b in itertools.pairwise(levels))


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


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
        cls, layer: str, ratio: float, removed: int, hits: np.ndarray, dense_hits: np.ndarray, redone: int = 0
    ) -> Point:
        """From the images that the pruned and the dense model got right, bool [n] each."""
        n, lost, gained = len(hits), int((dense_hits & ~hits).sum()), int((hits & ~dense_hits).sum())
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

    def of_layer(self, layer: str) -> tuple[Point, ...]:
        """The points of one layer, by rising ratio."""
        return tuple(point for point in self.points if point.layer == layer)

    def cost_removed(self, point: Point) -> tuple[float, float]:
        """Fractions of the whole network's (MACs, params) that the point takes out; a zeroed weight counts as taken out."""
        spec = VGGSpec.from_dict(self.spec)
        if self.kind == "structured":
            left = spec.with_widths({point.layer: spec.prunable[point.layer] - point.removed})
            return 1 - left.macs() / spec.macs(), 1 - left.params() / spec.params()
        row = next(row for row in spec.rows if row.name == point.layer)
        return point.removed * row.side**2 / spec.macs(), point.removed / spec.params()

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, as the ``.pth`` and the record hold it."""
        return {"format": SENSITIVITY, **asdict(self), "points": [asdict(point) for point in self.points]}

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
        spec = VGGSpec.from_dict(self.spec)
        sizes = (
            spec.prunable
            if self.kind == "structured"
            else {r.name: r.weights for r in spec.rows if r.name in spec.prunable}
        )
        _check_counts(self.baseline)
        for point in self.points:
            _check_counts(point)
            drop = 100 * (self.baseline.correct - point.correct) / self.baseline.n
            if point.n != self.baseline.n or point.drop != drop or not point.drop_low <= drop <= point.drop_high:
                raise ValueError(f"{point.layer!a}: {point.drop} in [{point.drop_low}, {point.drop_high}]")
            if not 0 <= point.removed < sizes[point.layer] or not 0 <= point.redone <= point.n:
                raise ValueError(f"{point.layer}: removed {point.removed}, redone {point.redone}")
        levels = {tuple(point.ratio for point in self.of_layer(layer)) for layer in self.layers}
        if len(levels) != 1 or not _rises(levels.pop()):
            raise ValueError("levels that no sweep asks for")
        if self.precision not in ("fp32", "bf16", "screened") or not re.fullmatch(r"\w+", self.importance, re.ASCII):
            raise ValueError(f"{self.precision!a}, {self.importance!a}")

    @property
    def removed(self) -> dict[str, tuple[int, ...]]:
        """Channels or weights, by layer and rising ratio."""
        return {layer: tuple(point.removed for point in self.of_layer(layer)) for layer in self.layers}

    def csv(self) -> str:
        """``<kind>_sensitivity.csv``: a header and one row a point (the contract's columns)."""
        columns = ("layer", "ratio", "correct", "n", "accuracy", "low", "high", "drop")
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([getattr(point, column) for column in columns] for point in self.points)
        return out.getvalue()
