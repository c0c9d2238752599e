"""The record of `pareto` holds one pruned model per budget, with its accuracy, cost and speed-up.

This module does not import torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.files.schema import read_table, typed
from tp_vgg.latency.table import MIN_VALUE
from tp_vgg.rundir.contents import RunContents

PARETO = "tp_vgg/pareto/1"
"""Format of the record; another one is not read."""
_PLAIN = re.compile(r"[A-Za-z0-9.=+, -]+")


@dataclass(frozen=True)
class ParetoPoint:
    """A point is the model that one budget led to; its fields are the columns of pareto.csv.

    Shares are its value divided by the dense model's. Accuracies are percent of the test images,
    drops percentage points. The times are ``None`` if it was not timed.
    """

    budget: str
    """The budget as it was given, such as ``macs=0.5`` or ``macs=0.5+params=0.4``."""
    checkpoint: str
    """Path of the model relative to the run directory."""
    sha256: str
    """Hash of that file."""
    macs_share: float
    params_share: float
    one_shot: float
    """Accuracy before fine-tuning."""
    accuracy: float
    low: float
    high: float
    """The 95 % interval of the accuracy, with ``low``."""
    n: int
    """Number of test images."""
    drop: float
    drop_low: float
    drop_high: float
    """The 95 % interval of the drop, with ``drop_low``."""
    predicted_drop: float
    """Drop before fine-tuning that the plan predicts, on the images of the sweep."""
    speedup: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    verdict: str | None = None
    """Verdict of the benchmark on the speed-up."""
    case: str | None = None
    """Mode, dtype and batch size of the speed-up."""

    def _check(self) -> None:
        """Raise ``ValueError`` if a value is out of range, or a text can't be drawn as it is."""
        if not all(_PLAIN.fullmatch(text) for text in (self.budget, self.case or "-")):
            raise ValueError("a budget or a case with other characters than they have")
        shares = (self.macs_share, self.params_share, self.speedup or 1.0)
        if not all(value >= MIN_VALUE for value in shares) or self.n < 1:
            raise ValueError("a share, a speed-up or a number of images out of range")
        if not 0 <= self.low <= self.accuracy <= self.high <= 100:
            raise ValueError("an accuracy outside of its interval")


@dataclass(frozen=True)
class Pareto:
    """A Pareto table holds the points of several budgets of one dense model."""

    key: str
    """Fingerprint of all settings that the points were made with."""
    baseline: str
    """SHA-256 of the dense model."""
    normalisation: dict[str, tuple[float, ...]]
    """``--mean`` and ``--std`` of the dense model, as in its record."""
    data: dict[str, Any]
    """Data set, its fingerprint, and the number of images of each split."""
    accuracy: float
    """Test accuracy of the dense model in percent."""
    chance: float
    """Accuracy of a guess in percent."""
    points: tuple[ParetoPoint, ...]
    """One per budget, in the order of the command line."""
    control: tuple[float, ...] = ()
    """Speed-up of a copy of the dense model with its interval, or nothing if none was timed."""
    environment: dict[str, str | int | None] = field(default_factory=dict)
    """Device and versions of the timing."""
    command: str = ""
    """The command line; empty if called from Python."""

    @property
    def guesses(self) -> bool:
        """Return True if the accuracy of a point can't be told from chance."""
        return any(point.low <= self.chance for point in self.points)

    @property
    def case(self) -> str | None:
        """Return the benchmark case of all speed-ups; ``None`` unless all points were timed."""
        timed = self.points and all(point.speedup is not None for point in self.points)
        return self.points[0].case if timed else None

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the record, in plain types only."""
        return {"format": PARETO, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Pareto:
        """Read what :meth:`to_dict` returned.

        Raises ``TypeError``, ``KeyError`` or ``ValueError`` for anything else.
        """
        if data["format"] != PARETO:
            raise ValueError("not a table of this version")
        table = typed(cls, data, more=True)
        if (
            not table.points
            or not 0 <= table.accuracy <= 100
            or not 0 <= table.chance <= 100
            or len(table.control) not in (0, 3)
        ):
            raise ValueError("no points, or numbers out of range")
        for point in table.points:
            point._check()
        return table


def pareto_of(contents: RunContents, dense: ModelRecord) -> Pareto | None:
    """Return the run directory's Pareto table if it is of this dense model and these test images.

    ``None`` if there is none, or if the file of a point is gone or another one than was measured.
    """
    table = read_table(contents.run.pareto_record, Pareto)
    if table is None:
        return None
    images = (*(table.data.get(name) for name in ("dataset", "fingerprint")), table.points[0].n)
    is_of_dense = (table.baseline, table.normalisation, images) == (
        dense.sha256,
        dense.normalisation,
        dense.test_images,
    )
    paths = [(contents.run.root / point.checkpoint, point.sha256) for point in table.points]
    current = is_of_dense and all(
        path.is_file() and contents.sha256(path) == digest for path, digest in paths
    )
    return table if current else None
