from __future__ import annotations

import random

import pytest
from fakes import ScriptedClock

from tp_vgg.interleave import LONG_BLOCK, WARM_UP_ROUNDS, interleave
from tp_vgg.latencies import FEW_TRIALS, TRIALS, Ratio

SIDES = {name: (lambda name=name: name) for name in "abc"}


def test_a_linear_drift_falls_on_all_sides_alike() -> None:
    """A machine that slows down by 1 % a sample: one after the other, b would look far slower than a."""
    clock = ScriptedClock(lambda _, i: 1 + 0.01 * i)
    seconds = interleave(SIDES, clock, 9).seconds
    assert all(values == pytest.approx(seconds["a"]) for values in seconds.values())
    ratio = Ratio.of(seconds["a"], seconds["b"])
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1, 1, 1))


def test_every_block_is_a_palindrome_of_all_sides_in_an_order_of_its_own() -> None:
    clock = ScriptedClock(lambda *_: 1.0)
    shares: list[float] = []
    interleave(SIDES, clock, 12, warm_up=(1, 1), tick=shares.append)
    blocks = [clock.order[3 + 6 * i : 9 + 6 * i] for i in range(12)]
    assert all(block == block[::-1] and set(block) == set(SIDES) for block in blocks)
    assert len({tuple(block) for block in blocks}) > 3
    assert sum(shares) == pytest.approx(1) and len(shares) == 12


def test_a_real_difference_is_found_through_noise() -> None:
    noise = random.Random(0)
    clock = ScriptedClock(lambda name, _: {"a": 2.0, "b": 1.0, "c": 2.0}[name] * noise.lognormvariate(0, 0.05))
    seconds = interleave(SIDES, clock).seconds
    gain, none = Ratio.of(seconds["a"], seconds["b"]), Ratio.of(seconds["a"], seconds["c"])
    assert gain.low > 1.8 and gain.low < gain.value < gain.high < 2.2
    assert none.includes_one


@pytest.mark.parametrize(("fall", "rounds", "warm"), [(0.0, 3, True), (0.02, 3, True), (0.3, WARM_UP_ROUNDS[1], False)])
def test_warm_up_goes_on_while_times_fall(fall: float, rounds: int, warm: bool) -> None:
    clock = ScriptedClock(lambda _, i: (1 - fall) ** ((i - 1) // 3))
    samples = interleave(SIDES, clock, 5)
    assert samples.warm is warm
    assert len(clock.order) == 3 * rounds + 5 * 6


def test_long_blocks_are_fewer() -> None:
    for seconds, trials in ((0.01, TRIALS), (LONG_BLOCK, FEW_TRIALS)):
        assert len(interleave(SIDES, ScriptedClock(lambda *_, s=seconds: s)).seconds["a"]) == trials
