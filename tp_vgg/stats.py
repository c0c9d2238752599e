"""Intervals (scipy, imported when asked: it is slow to load)."""

from __future__ import annotations


def wilson(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for ``correct`` of ``n``, as fractions. Source: Wilson 1927, by scipy."""
    from scipy.stats import binomtest

    interval = binomtest(correct, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)
