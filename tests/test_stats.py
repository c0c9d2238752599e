from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tp_vgg.stats import paired_difference, wilson


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
