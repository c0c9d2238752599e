"""Timing several things against each other so that what the machine does meanwhile falls on all of them alike."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tp_vgg.clocks import Call, Clock
from tp_vgg.latencies import FEW_TRIALS, TRIALS

FALLING = 0.05
"""Still warming up: each of the last three samples below the one before, and the last this share below the first."""
WARM_UP_ROUNDS = (3, 12)
"""Fewest and most; fewer than three can't tell whether it is stable."""
LONG_BLOCK = 10.0
"""Seconds; blocks that take longer are fewer by default."""


@dataclass(frozen=True)
class Samples:
    """Seconds of one call of each side."""

    seconds: dict[str, tuple[float, ...]]
    """A value a block: the mean of the side's two samples in it."""
    warm: bool
    """Whether the warm-up became stable before the blocks began."""


def interleave(
    sides: Mapping[str, Call],
    clock: Clock,
    trials: int | None = None,
    *,
    warm_up: tuple[int, int] = WARM_UP_ROUNDS,
    seed: int = 0,
    tick: Callable[[float], object] = lambda _: None,
) -> Samples:
    """Time ``sides`` in ``trials`` blocks, each in a random order and then in that order backwards (A/B/B/A).

    A drift that is linear over a block falls on every side alike, and nobody has the same neighbour throughout. Before that, ``warm_up``
    rounds over all sides, until nobody's last three samples fall by :data:`FALLING`. ``trials``: ``None`` for
    :data:`~tp_vgg.latencies.TRIALS`, or :data:`~tp_vgg.latencies.FEW_TRIALS` where a block takes over :data:`LONG_BLOCK`. ``tick`` is called after
    each block with the share of all that it was.
    """
    warm, last = _warmed(sides, clock, *warm_up)
    trials = trials or (TRIALS if 4 * sum(last.values()) < LONG_BLOCK else FEW_TRIALS)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    shuffle = random.Random(seed).shuffle
    for _ in range(trials):
        order = list(sides)
        shuffle(order)
        block: dict[str, list[float]] = {name: [] for name in sides}
        for name in (*order, *reversed(order)):
            block[name].append(clock.sample(sides[name]))
        for name, pair in block.items():
            seconds[name].append(sum(pair) / 2)
        tick(1 / trials)
    return Samples({name: tuple(values) for name, values in seconds.items()}, warm)


def _warmed(sides: Mapping[str, Call], clock: Clock, fewest: int, most: int) -> tuple[bool, dict[str, float]]:
    """Whether all became stable, and the last sample of each."""
    last: dict[str, list[float]] = {name: [] for name in sides}
    stable = False
    for done in range(1, most + 1):
        for name, call in sides.items():
            last[name] = [*last[name][-2:], clock.sample(call)]
        stable = done >= 3 and not any(_falling(*samples) for samples in last.values())
        if stable and done >= fewest:
            break
    return stable, {name: samples[-1] for name, samples in last.items()}


def _falling(first: float, second: float, third: float) -> bool:
    return first > second > third and third < (1 - FALLING) * first
