"""Timing several things against each other so that what the machine does meanwhile falls on all of them alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tp_vgg.errors import WorkFailed
from tp_vgg.latency.clock import Clock
from tp_vgg.latency.table import FEW_TRIALS, FEWEST_TRIALS, SLOW, TRIALS
from tp_vgg.machine.cuda_graph import Call

FALLING = 0.05
"""Still warming up: each of the last three samples below the one before, and the last this share below the first."""
WARM_UP_ROUNDS = (3, 12)
"""Fewest and most; fewer than three can't tell whether it is stable."""
LONG_BLOCK = 10.0
"""Seconds; blocks that take longer are fewer by default."""
PAUSE_SECONDS = 0.05
"""After a block that does not count, for the device to recover."""


class Throttled(WorkFailed):
    """The device's clock was too low for too many blocks."""

    def __init__(self, slow: int, good: int) -> None:
        super().__init__(
            f"throttled: the clock was under {SLOW:.0%} of its default rate in {slow} of {slow + good} blocks, which do not count"
        )
        self.slow = slow


@dataclass(frozen=True)
class Samples:
    """Seconds of one call of each side."""

    seconds: dict[str, tuple[float, ...]]
    """A value a block: the mean of the side's two samples in it."""
    warm: bool
    """Whether the warm-up became stable before the blocks began."""
    slow: int = 0
    """Blocks that were thrown away and measured again since the clock was too low."""


def interleave(
    candidates: Mapping[str, Call],
    clock: Clock,
    trials: int | None = None,
    *,
    warm_up: tuple[int, int] = WARM_UP_ROUNDS,
    seed: int = 0,
    tick: Callable[[float], object] = lambda _: None,
) -> Samples:
    """Time ``candidates`` in ``trials`` blocks, each in a random order and then in that order backwards (A/B/B/A).

    A drift that is linear over a block falls on every side alike, and nobody has the same neighbour throughout. Before that, ``warm_up``
    rounds over all candidates, until nobody's last three samples fall by :data:`FALLING`. ``trials``: ``None`` for
    :data:`~tp_vgg.latency.table.TRIALS`, or :data:`~tp_vgg.latency.table.FEW_TRIALS` where the samples of a block take over :data:`LONG_BLOCK`.
    ``tick`` is called after each block that counts with the share of all that it was.

    A block around which the device's clock rate is under :data:`~tp_vgg.latency.table.SLOW` of its default does not count and is measured again, so that there are
    at most twice as many blocks as asked for. Raises :class:`Throttled` where fewer than
    :data:`~tp_vgg.latency.table.FEWEST_TRIALS` are left (or than ``trials``, if those are fewer).
    """
    warm, last = _warmed(candidates, clock, *warm_up)
    block_seconds = 2 * sum(map(clock.sample_seconds, last.values()))
    trials = trials or (TRIALS if block_seconds < LONG_BLOCK else FEW_TRIALS)
    good: list[dict[str, float]] = []
    slow = 0
    shuffle = random.Random(seed).shuffle
    before = clock.speed()
    while len(good) < trials and len(good) + slow < 2 * trials:
        order = list(candidates)
        shuffle(order)
        block = _block(order, candidates, clock)
        after = clock.speed()
        if min(speed for speed in (before, after, SLOW) if speed is not None) < SLOW:
            slow += 1
            time.sleep(PAUSE_SECONDS)
            after = clock.speed()
        else:
            good.append(block)
            tick(1 / trials)
        before = after
    if len(good) < min(trials, FEWEST_TRIALS):
        raise Throttled(slow, len(good))
    return Samples({name: tuple(block[name] for block in good) for name in candidates}, warm, slow)


def _block(order: list[str], candidates: Mapping[str, Call], clock: Clock) -> dict[str, float]:
    """The mean of both samples of each side."""
    seconds = dict.fromkeys(order, 0.0)
    for name in (*order, *reversed(order)):
        seconds[name] += clock.sample(candidates[name]) / 2
    return seconds


def _warmed(
    candidates: Mapping[str, Call], clock: Clock, fewest: int, most: int
) -> tuple[bool, dict[str, float]]:
    """Whether all became stable, and the last sample of each."""
    last: dict[str, list[float]] = {name: [] for name in candidates}
    stable = False
    for done in range(1, most + 1):
        for name, call in candidates.items():
            last[name] = [*last[name][-2:], clock.sample(call)]
        stable = done >= 3 and not any(_falling(*samples) for samples in last.values())
        if stable and done >= fewest:
            break
    return stable, {name: samples[-1] for name, samples in last.items()}


def _falling(first: float, second: float, third: float) -> bool:
    return first > second > third and third < (1 - FALLING) * first
