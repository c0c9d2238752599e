"""A history lists the epochs of a training; it is written to and read from CSV.

This module does not import torch.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from tp_vgg.files.schema import typed


@dataclass(frozen=True)
class Epoch:
    """An epoch is one row of ``history.csv``."""

    epoch: int
    """Number of the epoch, counted from 1."""
    lr: float
    """Learning rate at the end of the epoch."""
    train_loss: float
    """Mean over the epoch's images of the loss that is minimised."""
    train_accuracy: float
    """Percent, on the augmented images at the step that trained on them."""
    val_accuracy: float
    """Percent, on the val images after the epoch."""
    seconds: float
    """Wall-clock seconds of the epoch, validation included."""


def history_csv(history: Sequence[Epoch]) -> str:
    """Return the text of ``history.csv``: a header and one row per epoch."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [f.name for f in fields(Epoch)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(epoch) for epoch in history)
    return out.getvalue()


def read_history(text: str) -> tuple[Epoch, ...]:
    """Read the epochs from the text that :func:`history_csv` wrote.

    Raises ``TypeError`` or ``ValueError`` for any other text, and for values that are not numbers.
    """
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
    epochs = tuple(
        Epoch(**{name: kind(row[name]) for name, kind in kinds.items()})  # type: ignore[arg-type]
        for row in rows
    )
    return tuple(typed(Epoch, asdict(epoch)) for epoch in epochs)
