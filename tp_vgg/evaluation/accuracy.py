"""Counts of right answers, with their interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

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

    def chance_warnings(self, chance: float) -> tuple[str, ...]:
        """A sentence where it can't be told from ``chance``, in percent."""
        if self.low > chance:
            return ()
        return (f"accuracy can't be told from chance: {self.accuracy:.2f} % [{self.low:.2f}, {self.high:.2f}] where one class for all gives {chance:.2f} %",)  # fmt: skip


class Counted(Protocol):
    """Right answers among some images, with an interval: an :class:`Accuracy`, or a point of a sweep."""

    @property
    def correct(self) -> int: ...
    @property
    def n(self) -> int: ...
    @property
    def accuracy(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def check_counts(found: Counted) -> None:
    """What follows from the counts does; ``ValueError``."""
    count, n = found.correct, found.n
    if not 0 <= count <= n or n == 0 or found.accuracy != 100 * count / n:
        raise ValueError(f"{count} of {n}: {found.accuracy}")
    if not 0 <= found.low <= found.accuracy <= found.high <= 100:
        raise ValueError(f"{found.accuracy} in [{found.low}, {found.high}]")


def is_count(value: object) -> bool:
    """Whether it is a whole number above 0, and no bool."""
    return type(value) is int and value > 0
