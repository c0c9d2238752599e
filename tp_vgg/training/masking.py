"""What training asks of masks that change while a network trains."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from tp_vgg.network.network import Network


class Masking(Protocol):
    """Masks that follow from the number of the step alone, so that an interrupted training ends at the same bits."""

    @property
    def key(self) -> str:
        """What decides its outcome."""
        ...

    def begin(self, model: Network) -> None:
        """Attach masks that mask nothing yet."""

    def settled(self, step: int, total: int) -> bool:
        """Whether the masks are final after ``step`` of ``total`` steps: only then can an epoch be the best."""
        ...

    def before_step(self, model: nn.Module, step: int, total: int) -> None:
        """Change the masks, where the schedule has it."""
