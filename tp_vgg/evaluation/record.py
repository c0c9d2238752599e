"""This module holds the record of a model: its measured values and their JSON.

This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tp_vgg.evaluation.accuracy import Accuracy, check_counts, is_count
from tp_vgg.evaluation.hits import unpack_hits
from tp_vgg.evaluation.repaired import RepairRecord
from tp_vgg.files.schema import typed
from tp_vgg.network.families import spec_from_dict
from tp_vgg.stats import paired_difference

_FINETUNING = ("fine-tuned", "not fine-tuned")


def finetuning_note(epochs: int | None) -> str:
    """Return the note on the fine-tuning of a pruned model, for its record."""
    return f"fine-tuned for {epochs} epoch{'s' * (epochs != 1)}" if epochs else "not fine-tuned"


@dataclass(frozen=True)
class ModelRecord:
    """A model record describes one checkpoint and its measured values."""

    checkpoint: str
    """Path relative to the run directory."""
    sha256: str
    """Hash of the checkpoint's bytes: a record that does not match its file is stale."""
    baseline: str | None
    """``sha256`` of the dense model that the model was pruned from; ``None`` for a baseline."""
    key: str
    """Fingerprint of the settings that the model was made with; empty if made elsewhere."""
    val: Accuracy
    test: Accuracy
    params: int
    nonzero: int
    """Parameters that are not exactly zero."""
    macs: int
    """Multiply-accumulates of conv and linear layers for one image."""
    bytes: int
    """Size of the checkpoint file, or of a foreign one as tp_vgg would write it."""
    spec: dict[str, Any]
    sparsity: dict[str, float]
    """Fraction of exact zeros in the weight of each conv and linear layer."""
    data: dict[str, Any]
    """Data set, its fingerprint, and the number of images of each split."""
    environment: dict[str, str | int | None]
    peak_bytes: int
    """Peak memory of the stage in bytes: allocated on CUDA, resident on the CPU."""
    hits: str
    """Correct or not for each test image, packed by :func:`~tp_vgg.evaluation.hits.pack_hits`."""
    command: str
    """The command line that made the model; empty if made from Python."""
    notes: tuple[str, ...] = ()
    normalisation: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """``--mean`` and ``--std``, for a file that does not hold its own; else empty."""
    file_bytes: int | None = None
    """Size of a file that tp_vgg did not write; ``bytes`` is then its size as tp_vgg writes it."""
    repair: RepairRecord | None = None
    """How it was repaired after pruning; ``None`` if it was not, or is a baseline."""

    @property
    def test_images(self) -> tuple[str, str, int]:
        """Return the identity of the test images: data set, fingerprint, number."""
        return self.data["dataset"], self.data["fingerprint"], self.test.n

    @property
    def finetuning(self) -> str:
        """Return the note on its fine-tuning (:func:`finetuning_note`); empty if it has none."""
        return next((note for note in self.notes if note.startswith(_FINETUNING)), "")

    @property
    def comparable(self) -> tuple[object, ...]:
        """Return the identity that models of one table share: dense model and test images.

        The dense model is its checkpoint and its normalisation.
        """
        numbers = tuple(sorted(self.normalisation.items()))
        return (self.baseline or self.sha256, numbers, *self.test_images)

    @property
    def has_zeros(self) -> bool:
        """Return True if more than 1 % of the parameters are zero."""
        return self.nonzero < 0.99 * self.params

    @property
    def chance(self) -> float:
        """Return the accuracy of a random guess in percent, 100 ÷ classes."""
        return 100 / spec_from_dict(self.spec).num_classes

    @property
    def guesses(self) -> bool:
        """Return True if the test accuracy can't be told from :attr:`chance`."""
        return bool(self.test.chance_warnings(self.chance))

    def drop_against(self, dense: ModelRecord) -> tuple[float, float, float]:
        """Return the drop in test accuracy against ``dense`` and its 95 % interval (low, high).

        All three are percentage points; the drop is positive if accuracy was lost. The interval is
        that of the paired difference (:func:`tp_vgg.stats.paired_difference`). Both models must
        have been measured on the same images.
        """
        mine, before = unpack_hits(self.hits, self.test.n), unpack_hits(dense.hits, dense.test.n)
        lost, gained = int((before & ~mine).sum()), int((mine & ~before).sum())
        low, high = paired_difference(lost, gained, self.test.n)
        return 100 * (lost - gained) / self.test.n, 100 * low, 100 * high

    def to_dict(self) -> dict[str, Any]:
        """Return the record in plain types only, for its JSON file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelRecord:
        """Read what :meth:`to_dict` returned.

        Raises ``TypeError``, ``KeyError`` or ``ValueError`` for anything else, and for values that
        contradict each other or the spec.
        """
        record = typed(cls, data)
        record._check()
        return record

    def _check(self) -> None:
        """Raise an error if the values contradict each other or the spec."""
        spec = spec_from_dict(self.spec)
        check_counts(self.val)
        check_counts(self.test)
        if unpack_hits(self.hits, self.test.n).sum() != self.test.correct:
            raise ValueError("a number of hits that differs from the accuracy's")
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
            raise TypeError("data without a name, a fingerprint or a count of training images")
        if (self.data["val"], self.data["test"]) != (self.val.n, self.test.n) or not is_count(
            self.bytes
        ):
            raise ValueError(
                "image counts that differ from the accuracies', or a file size below 1"
            )
        if self.repair is not None:
            if self.baseline is None:
                raise ValueError("a repair of a dense model")
            self.repair.check(set(self.sparsity), self.test.n)

    def metrics(self) -> dict[str, Any]:
        """Return the entry in ``metrics.json``; its names are fixed."""
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
            "repair": None if self.repair is None else self.repair.metrics(),
        }
