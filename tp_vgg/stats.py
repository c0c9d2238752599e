"""Intervals (scipy, imported when asked: it is slow to load)."""

from __future__ import annotations

import math


def wilson(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for ``correct`` of ``n``, as fractions. Source: Wilson 1927, by scipy."""
    from scipy.stats import binomtest

    interval = binomtest(correct, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def paired_difference(lost: int, gained: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the difference ``(lost − gained) / n`` of two accuracies on the same ``n`` images, as fractions.

    ``lost``: right by the first model alone; ``gained``: by the second alone. Source: Bonett & Price 2012, the adjusted Wald
    interval for paired proportions, clipped to [−1, 1]; scipy has none.
    """
    from scipy.stats import norm

    first, second = (lost + 1) / (n + 2), (gained + 1) / (n + 2)
    centre = first - second
    reach = float(norm.ppf((1 + confidence) / 2)) * math.sqrt((first + second - centre**2) / (n + 2))
    return max(centre - reach, -1.0), min(centre + reach, 1.0)
