"""What was measured of one model, and its JSON (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tp_vgg.evaluation.accuracy import Accuracy, check_counts, is_count
from tp_vgg.evaluation.hits import unpack_hits
from tp_vgg.files.schema import typed
from tp_vgg.network.families import spec_from_dict
from tp_vgg.stats import paired_difference


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
    """Which test images it gets right, by :func:`~tp_vgg.evaluation.hits.pack_hits`."""
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
        spec = spec_from_dict(self.spec)
        check_counts(self.val)
        check_counts(self.test)
        if unpack_hits(self.hits, self.test.n).sum() != self.test.correct:
            raise ValueError("hits of another count than the accuracy's")
        if (self.params, self.macs) != (
            spec.params(),
            spec.macs(),
        ) or not 0 < self.nonzero <= self.params:
            raise ValueError(
                f"{self.nonzero} of {self.params} params, {self.macs} MACs of another network"
            )
        if set(self.sparsity) != {row.name for row in spec.rows} or not all(
            0 <= v <= 1 for v in self.sparsity.values()
        ):
            raise ValueError("zeros of another network")
        if not all(
            type(self.data[name]) is str for name in ("dataset", "fingerprint")
        ) or not is_count(self.data["train"]):
            raise TypeError("not what a record says of its images")
        if (self.data["val"], self.data["test"]) != (self.val.n, self.test.n) or not is_count(
            self.bytes
        ):
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
