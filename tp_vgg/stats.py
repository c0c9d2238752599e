"""Intervals (scipy, imported when asked: it is slow to load)."""

from __future__ import annotations

import math
from collections.abc import Sequence


def wilson(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for ``correct`` of ``n``, as fractions. Source: Wilson 1927, by scipy."""
    from scipy.stats import binomtest

    interval = binomtest(correct, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def paired_difference(
    lost: int, gained: int, n: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of the difference ``(lost − gained) / n`` of two accuracies on the same ``n`` images, as fractions.

    ``lost``: right by the first model alone; ``gained``: by the second alone. Source: Bonett & Price 2012, the adjusted Wald
    interval for paired proportions, clipped to [−1, 1]; scipy has none.
    """
    from scipy.stats import norm

    first, second = (lost + 1) / (n + 2), (gained + 1) / (n + 2)
    centre = first - second
    reach = float(norm.ppf((1 + confidence) / 2)) * math.sqrt(
        (first + second - centre**2) / (n + 2)
    )
    return max(centre - reach, -1.0), min(centre + reach, 1.0)


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the median of ``values`` (two or more), by the percentile bootstrap of 9,999 resamples with a fixed seed.

    Source: Efron & Tibshirani 1993, chapter 13, by scipy. Its corrected forms (BCa) are no better for a median, whose bootstrap
    distribution is a few order statistics.
    """
    import numpy as np
    from scipy.stats import bootstrap

    found = bootstrap(
        (np.asarray(values),),
        np.median,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The quartiles of ``values``, one or more; the second is the median."""
    import numpy as np

    low, middle, high = np.quantile(np.asarray(values), (0.25, 0.5, 0.75))
    return float(low), float(middle), float(high)


def paired_runs(
    first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]
) -> tuple[float, float, float]:
    """Mean of ``first − second`` and its 95 % interval: hits [runs, images] each, the same images in the same order in every run.

    An image's difference is its mean over the runs, and the interval is Student's over the images (by scipy): it covers the draw of
    images, given these runs; how runs differ among themselves it does not say. Raises :class:`ValueError` for unlike shapes.
    """
    import numpy as np
    from scipy.stats import ttest_1samp

    one, two = np.asarray(first, float), np.asarray(second, float)
    if one.ndim != 2 or one.shape[1:] != two.shape[1:]:
        raise ValueError(f"shapes {one.shape} and {two.shape}")
    difference = one.mean(axis=0) - two.mean(axis=0)
    if not np.ptp(difference):
        return float(difference[0]), float(difference[0]), float(difference[0])
    interval = ttest_1samp(difference, 0).confidence_interval(0.95)
    return float(difference.mean()), float(interval.low), float(interval.high)
