"""This module computes accuracies with their confidence intervals from counts of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tp_vgg.stats import wilson


@dataclass(frozen=True)
class Accuracy:
    """An accuracy is the share of ``n`` images that was classified correctly.

    ``accuracy`` and the ends ``low`` and ``high`` of its 95 % interval (Wilson 1927) are
    percentages in [0, 100].
    """

    correct: int
    n: int
    accuracy: float
    low: float
    high: float

    def __repr__(self) -> str:
        return (
            f"<Accuracy: {self.accuracy:.2f} % [{self.low:.2f}, {self.high:.2f}], "
            f"{self.correct:,} of {self.n:,} images>"
        )

    @classmethod
    def of(cls, correct: int, n: int) -> Accuracy:
        """Compute the accuracy and its interval for ``correct`` of ``n`` images."""
        low, high = wilson(correct, n)
        return cls(correct, n, 100 * correct / n, 100 * low, 100 * high)

    def chance_warnings(self, chance: float) -> tuple[str, ...]:
        """Return a sentence if the accuracy can't be told from ``chance`` (percent), else nothing.

        It can't be told from chance if the interval's lower end is not above it.
        """
        if self.low > chance:
            return ()
        return (
            f"accuracy can't be told from chance: {self.accuracy:.2f} % "
            f"[{self.low:.2f}, {self.high:.2f}], while always predicting one class gives "
            f"{chance:.2f} %",
        )


class Counted(Protocol):
    """A counted result has a number of correct predictions and an accuracy with its interval.

    Examples: an :class:`Accuracy`, a point of a sweep.
    """

    @property
    def correct(self) -> int:
        """Return the number of images classified correctly."""
        ...

    @property
    def n(self) -> int:
        """Return the number of images."""
        ...

    @property
    def accuracy(self) -> float:
        """Return the accuracy in percent."""
        ...

    @property
    def low(self) -> float:
        """Return the lower end of the interval in percent."""
        ...

    @property
    def high(self) -> float:
        """Return the upper end of the interval in percent."""
        ...


def check_counts(result: Counted) -> None:
    """Raise ``ValueError`` if the accuracy or its interval does not agree with the counts."""
    correct, n = result.correct, result.n
    if not 0 <= correct <= n or n == 0 or result.accuracy != 100 * correct / n:
        raise ValueError(f"{correct} of {n}: {result.accuracy}")
    if not 0 <= result.low <= result.accuracy <= result.high <= 100:
        raise ValueError(f"{result.accuracy} in [{result.low}, {result.high}]")


def is_count(value: object) -> bool:
    """Return True if ``value`` is an ``int`` above 0 and not a ``bool``."""
    return type(value) is int and value > 0
