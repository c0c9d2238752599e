"""A pruning in steps prunes a part, trains a share of the epochs, and goes on (``--steps``)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from tp_vgg.rundir.layout import partial_of
from tp_vgg.training.history import Epoch


@dataclass(frozen=True)
class PruningStep:
    """A step is one of ``--steps``: a pruning, then a share of the fine-tuning."""

    number: int
    """From 1 to ``count``."""
    count: int
    epochs: int
    """Epochs of fine-tuning after the pruning."""
    partial: Path
    """File for unfinished fine-tuning."""

    @property
    def last(self) -> bool:
        """Return True for the step after which the pruning is complete."""
        return self.number == self.count

    def numbered(self, note: str) -> str:
        """Return ``note`` with the step's number in front, unless there is only one step."""
        return note if self.count == 1 else f"step {self.number}/{self.count}: {note}"

    @property
    def training(self) -> str:
        """Return what the progress bar calls the step's fine-tuning."""
        return "fine-tune" if self.count == 1 else f"fine-tune {self.number}/{self.count}"


def pruning_steps(count: int, epochs: int, final: Path) -> tuple[PruningStep, ...]:
    """Return ``count`` steps that share out ``epochs``; what can't be divided goes to the last.

    ``final``: file of the model that they end in.
    """
    return tuple(
        PruningStep(
            number,
            count,
            epochs // count + (epochs % count if number == count else 0),
            partial_of(final, "" if number == count else f".step{number}"),
        )
        for number in range(1, count + 1)
    )


def continued(history: tuple[Epoch, ...], more: Iterable[Epoch]) -> tuple[Epoch, ...]:
    """Return ``history`` and the epochs of the next step, numbered on from it."""
    return history + tuple(replace(epoch, epoch=len(history) + epoch.epoch) for epoch in more)
