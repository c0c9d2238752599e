"""The epochs of a training, and their CSV (no torch)."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from tp_vgg.files.schema import typed


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


def history_csv(history: Sequence[Epoch]) -> str:
    """``history.csv``: a header and one row an epoch."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [f.name for f in fields(Epoch)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(epoch) for epoch in history)
    return out.getvalue()


def read_history(text: str) -> tuple[Epoch, ...]:
    """The inverse of :func:`history_csv`. Raises ``TypeError`` or ``ValueError`` for anything else, and for numbers that are none."""
    try:
        return _read(text)
    except csv.Error as error:
        raise ValueError(str(error)) from None


def _read(text: str) -> tuple[Epoch, ...]:
    reader = csv.DictReader(io.StringIO(text))
    kinds = {f.name: int if f.name == "epoch" else float for f in fields(Epoch)}
    if reader.fieldnames != list(kinds):
        raise ValueError(f"columns {reader.fieldnames}")
    rows = list(reader)
    if any(None in (*row, *row.values()) for row in rows):
        raise ValueError("a row that is too short or too long")
    epochs = tuple(Epoch(**{name: kind(row[name]) for name, kind in kinds.items()}) for row in rows)  # type: ignore[arg-type]
    return tuple(typed(Epoch, asdict(epoch)) for epoch in epochs)
