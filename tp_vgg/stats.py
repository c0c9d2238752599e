"""This module computes confidence intervals and quartiles.

scipy is imported on first use, because it loads slowly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def wilson(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval for the fraction ``correct / n``, as fractions in [0, 1].

    Source: Wilson 1927, as implemented by scipy.
    """
    from scipy.stats import binomtest

    interval = binomtest(correct, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def paired_difference(
    lost: float, gained: float, n: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Return an interval for the accuracy difference ``(lost − gained) / n`` of two models.

    Both models see the same ``n`` images. ``lost`` counts the images that only the first model gets
    right, ``gained`` those that only the second gets right; expected counts may be fractions. The
    bounds are fractions in [−1, 1].

    Source: Bonett & Price 2012, the adjusted Wald interval for paired proportions, clipped to
    [−1, 1]; scipy has none.
    """
    from scipy.stats import norm

    first, second = (lost + 1) / (n + 2), (gained + 1) / (n + 2)
    centre = first - second
    half_width = float(norm.ppf((1 + confidence) / 2)) * math.sqrt(
        (first + second - centre**2) / (n + 2)
    )
    return max(centre - half_width, -1.0), min(centre + half_width, 1.0)


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return a bootstrap interval for the median of two or more ``values``, in their unit.

    It is the percentile bootstrap with 9,999 resamples and a fixed seed. Source: Efron & Tibshirani
    1993, chapter 13, as implemented by scipy. The corrected forms (BCa) are no better for a median,
    whose bootstrap distribution consists of a few order statistics.
    """
    import numpy as np
    from scipy.stats import bootstrap

    result = bootstrap(
        (np.asarray(values),),
        np.median,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the three quartiles of one or more ``values``; the second is the median."""
    import numpy as np

    low, median, high = np.quantile(np.asarray(values), (0.25, 0.5, 0.75))
    return float(low), float(median), float(high)


def paired_runs(
    first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]
) -> tuple[float, float, float]:
    """Return the mean of ``first − second`` and its 95 % interval, as (mean, low, high).

    Each argument holds hits [runs, images]; the images are the same, in the same order, in every
    run. The hits of an image are averaged over the runs first. The interval is Student's t over the
    images (by scipy): it covers the choice of images, given these runs, and says nothing about the
    variation between runs. Raises :class:`ValueError` if the shapes do not match.
    """
    import numpy as np
    from scipy.stats import ttest_1samp

    first_hits, second_hits = np.asarray(first, float), np.asarray(second, float)
    if first_hits.ndim != 2 or first_hits.shape[1:] != second_hits.shape[1:]:
        raise ValueError(f"shapes {first_hits.shape} and {second_hits.shape}")
    difference = first_hits.mean(axis=0) - second_hits.mean(axis=0)
    if not np.ptp(difference):
        return float(difference[0]), float(difference[0]), float(difference[0])
    interval = ttest_1samp(difference, 0).confidence_interval(0.95)
    return float(difference.mean()), float(interval.low), float(interval.high)
