from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from helpers.fakes import DEFAULT_MHZ, FakeCuda, ScriptedClock

from tp_vgg.latency.cuda import CudaClock
from tp_vgg.latency.interleave import LONG_BLOCK, WARM_UP_ROUNDS, Samples, Throttled, interleave
from tp_vgg.latency.table import FEW_TRIALS, TRIALS, Ratio

CANDIDATES = {name: (lambda name=name: name) for name in "abc"}


def test_a_linear_drift_falls_on_all_candidates_alike() -> None:
    """The machine gets 1 % slower per sample: timed one after the other, b would look slower."""
    clock = ScriptedClock(lambda _, i: 1 + 0.01 * i)
    seconds = interleave(CANDIDATES, clock, 9).seconds
    assert all(values == pytest.approx(seconds["a"]) for values in seconds.values())
    ratio = Ratio.of(seconds["a"], seconds["b"])
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1, 1, 1))


def test_every_block_is_a_palindrome_of_all_candidates_in_an_order_of_its_own() -> None:
    clock = ScriptedClock(lambda *_: 1.0)
    shares: list[float] = []
    interleave(CANDIDATES, clock, 12, warm_up=(1, 1), tick=shares.append)
    blocks = [clock.order[3 + 6 * i : 9 + 6 * i] for i in range(12)]
    assert all(block == block[::-1] and set(block) == set(CANDIDATES) for block in blocks)
    assert len({tuple(block) for block in blocks}) > 3
    assert sum(shares) == pytest.approx(1) and len(shares) == 12


def test_a_real_difference_is_found_through_noise() -> None:
    noise = random.Random(0)
    clock = ScriptedClock(
        lambda name, _: {"a": 2.0, "b": 1.0, "c": 2.0}[name] * noise.lognormvariate(0, 0.05)
    )
    seconds = interleave(CANDIDATES, clock).seconds
    gain, none = Ratio.of(seconds["a"], seconds["b"]), Ratio.of(seconds["a"], seconds["c"])
    assert gain.low > 1.8 and gain.low < gain.value < gain.high < 2.2
    assert none.includes_one


@pytest.mark.parametrize(
    ("fall", "rounds", "warm"), [(0.0, 3, True), (0.02, 3, True), (0.3, WARM_UP_ROUNDS[1], False)]
)
def test_warm_up_goes_on_while_times_fall(fall: float, rounds: int, warm: bool) -> None:
    clock = ScriptedClock(lambda _, i: (1 - fall) ** ((i - 1) // 3))
    samples = interleave(CANDIDATES, clock, 5)
    assert samples.warm is warm
    assert len(clock.order) == 3 * rounds + 5 * 6


def test_long_blocks_are_fewer() -> None:
    for seconds, trials in ((0.01, TRIALS), (LONG_BLOCK, FEW_TRIALS)):
        assert (
            len(interleave(CANDIDATES, ScriptedClock(lambda *_, s=seconds: s)).seconds["a"])
            == trials
        )


def test_a_block_is_as_long_as_its_samples() -> None:
    """A block is long if its samples are long, even if each call takes only a millisecond."""
    for seconds, trials in ((0.1, TRIALS), (LONG_BLOCK / 4, FEW_TRIALS)):
        cuda = FakeCuda()
        clock = CudaClock(cuda, seconds)
        candidates = {name: cuda.takes(0.001) for name in "ab"}
        assert len(interleave(candidates, clock, warm_up=(1, 1)).seconds["a"]) == trials


def throttling(mhz: Callable[[float], float], **options: Any) -> Samples:
    """Interleave two calls of one second at the clock rate ``mhz``.

    A block has eight calls: each of both twice, each after one that is not counted.
    """
    cuda = FakeCuda(mhz=mhz)
    slowed = lambda: cuda.takes(DEFAULT_MHZ / mhz(cuda.now()))()  # noqa: E731
    return interleave({"a": slowed, "b": slowed}, CudaClock(cuda), **options)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tp_vgg.latency.interleave.PAUSE_SECONDS", 0.0)


def test_blocks_on_a_slow_clock_are_thrown_away_and_measured_again() -> None:
    """The clock rate is halved in the middle for four blocks, then recovers."""
    found = throttling(lambda now: 1000 if 60 <= now < 124 else 2000, trials=12)
    assert all(len(seconds) == 12 and set(seconds) == {1.0} for seconds in found.seconds.values())
    assert 4 <= found.slow <= 6
    assert throttling(lambda _: 1501, trials=12).slow == 0  # just over three quarters


def test_a_block_in_which_the_clock_fell_does_not_count_either() -> None:
    """One block starts fast and ends slow; the next starts slow and ends fast."""
    clock = ScriptedClock(lambda *_: 1.0)
    speeds = iter([1.0, 1.0, 0.5, 0.5, 1.0, *[1.0] * 20])
    clock.speed = lambda: next(speeds)  # type: ignore[method-assign]
    found = interleave(CANDIDATES, clock, 9, warm_up=(1, 1))
    assert found.slow == 2 and len(found.seconds["a"]) == 9


def test_a_clock_that_stays_low_ends_after_twice_the_blocks() -> None:
    """The blocks before the fall are kept if they are enough; otherwise the reason is told."""
    falls = lambda now: 2000 if now < 100 else 1000  # noqa: E731
    enough = throttling(falls, trials=17)
    assert 9 <= len(enough.seconds["a"]) < 17 and enough.slow + len(enough.seconds["a"]) == 2 * 17
    assert set(enough.seconds["a"]) == {1.0}
    with pytest.raises(
        Throttled,
        match=r"^throttled: the clock was under 75% of its default rate in 34 of 34 blocks",
    ):
        throttling(lambda _: 1400, trials=17)
    with pytest.raises(Throttled, match="in 10 of 10 blocks"):
        throttling(lambda _: 1400, trials=5)


def test_a_clock_that_nobody_tells_of_is_not_judged() -> None:
    assert interleave(CANDIDATES, ScriptedClock(lambda *_: 1.0), 9).slow == 0
