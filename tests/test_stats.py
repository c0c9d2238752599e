from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from tp_vgg.latency.table import FEW_TRIALS, TRIALS
from tp_vgg.stats import median_interval, paired_difference, quartiles, wilson


def test_wilson_against_a_published_example() -> None:
    """Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)


def test_paired_difference_by_hand() -> None:
    """(lost + 1, gained + 1) / (n + 2) = (0.3, 0.1): 0.2 ± 1.95996 · √((0.4 − 0.04) / 100)."""
    low, high = paired_difference(29, 9, 98)
    assert (low, high) == pytest.approx((0.2 - 1.959964 * 0.06, 0.2 + 1.959964 * 0.06), abs=1e-6)


@given(st.integers(1, 10_000), st.data())
def test_paired_difference_holds_the_estimate_and_is_symmetric(n: int, data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, n))
    gained = data.draw(st.integers(0, n - lost))
    low, high = paired_difference(lost, gained, n)
    assert -1 <= low <= (lost - gained) / n <= high <= 1
    assert paired_difference(gained, lost, n) == pytest.approx((-high, -low))


def test_pairing_narrows_the_interval() -> None:
    few = paired_difference(20, 10, 1000)
    many = paired_difference(320, 310, 1000)
    assert few[1] - few[0] < 0.5 * (many[1] - many[0])


def test_the_median_interval_covers_as_often_as_it_says() -> None:
    """With the default number of blocks and heavy tails it covers about 95 % of 400 draws."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        low, high = median_interval(rng.standard_t(2, TRIALS).tolist())
        hits += low <= 0 <= high
    assert 0.92 <= hits / 400 <= 0.98


def test_the_default_intervals_are_order_statistics() -> None:
    """The bootstrap interval of the median is the 5th to 13th of 17 values, or the 2nd to 8th of 9.

    :data:`TRIALS` and :data:`FEW_TRIALS` depend on it.
    """
    for n, place in ((TRIALS, 5), (FEW_TRIALS, 2)):
        values = np.random.default_rng(1).permutation(np.arange(1.0, n + 1)).tolist()
        assert median_interval(values) == (place, n + 1 - place)
        assert binom.cdf(place - 1, n, 0.5) < 0.025 < binom.cdf(place, n, 0.5)


def test_equal_values_have_no_width() -> None:
    assert median_interval([1.5] * 5) == (1.5, 1.5)
    assert quartiles([3.0]) == (3.0, 3.0, 3.0)
    assert quartiles([1, 2, 3, 4, 5]) == (2.0, 3.0, 4.0)
