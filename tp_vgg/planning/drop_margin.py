"""This module says how much larger a predicted drop may be before the sweep's images tell.

This module does not import torch.
"""

from __future__ import annotations

from tp_vgg.stats import paired_difference

MOST = 0.2
"""Most percentage points by which a plan may predict a larger drop than the smallest one."""


def drop_interval(points: float, n: int) -> tuple[float, float]:
    """Return the narrowest 95 % interval that a measured difference of ``points`` can have.

    ``points``: the difference of two accuracies on the same ``n`` images, in percentage points, at
    least 0; so is the interval. A difference says at least how many images are lost. The interval
    is :func:`~tp_vgg.stats.paired_difference` (Bonett & Price 2012) for exactly as many lost and
    none gained; a predicted number of images may be a fraction. If images were gained too, more
    would be lost, and the interval would be wider.
    """
    low, high = paired_difference(points * n / 100, 0, n)
    return 100 * low, 100 * high


def margin(n: int) -> float:
    """Return the most points whose :func:`drop_interval` on ``n`` images includes 0.

    It is at most :data:`MOST`. The interval's lower end rises through 0 only once, so all smaller
    differences include 0 too, and no larger one does.
    """
    if drop_interval(MOST, n)[0] <= 0:
        return MOST
    within, beyond = 0.0, MOST
    for _ in range(30):
        middle = (within + beyond) / 2
        if drop_interval(middle, n)[0] <= 0:
            within = middle
        else:
            beyond = middle
    return within
