"""The frozen tables that flow from stage to stage, and their JSON and CSV (no torch)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from tp_vgg.stats import wilson


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


@dataclass(frozen=True)
class Epoch:
    """One row of ``history.csv``."""

    epoch: int
    """Counted from 1."""
    lr: float
    """Learning rate at the epoch's end."""
    train_loss: float
    """Mean over the epoch's images of what was minimised."""
    train_accuracy: float
    """Percent, on the augmented images as they were trained on."""
    val_accuracy: float
    """Percent."""
    seconds: float


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
    environment: dict[str, Any]
    peak_bytes: int
    """Peak memory of the stage: allocated on CUDA, resident on the CPU."""
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelRecord:
        """Raises ``TypeError`` or ``KeyError`` for anything that :meth:`to_dict` did not write."""
        known = {f.name for f in fields(cls)}
        if set(data) != known:
            raise KeyError(f"fields {sorted(set(data) ^ known)}")
        rest = {k: v for k, v in data.items() if k not in ("val", "test", "notes")}
        return cls(**rest, val=Accuracy(**data["val"]), test=Accuracy(**data["test"]), notes=tuple(data["notes"]))

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


def history_csv(history: Sequence[Epoch]) -> str:
    """``history.csv``: a header and one row an epoch."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [f.name for f in fields(Epoch)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(epoch) for epoch in history)
    return out.getvalue()
