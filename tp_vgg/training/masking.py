"""The ``Masking`` interface lets the trainer change weight masks while a network trains."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from tp_vgg.network.network import Network


class Masking(Protocol):
    """A masking changes a network's weight masks during training.

    Its schedule follows from the step number alone, so that an interrupted training that is resumed
    ends at the same bits.
    """

    @property
    def key(self) -> str:
        """Return a text of all settings that decide the outcome, for the training's key."""
        ...

    def begin(self, model: Network) -> None:
        """Attach masks that mask nothing yet."""

    def settled(self, step: int, total: int) -> bool:
        """Return True if the masks are final after ``step`` of ``total`` steps.

        Earlier epochs do not count when the best epoch is chosen.
        """
        ...

    def before_step(self, model: nn.Module, step: int, total: int) -> None:
        """Update the masks if the schedule has an update at ``step`` (steps done) of ``total``."""
