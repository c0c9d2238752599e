"""Candidates are timed in turns, so that disturbances of the machine affect all of them alike."""

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
"""A candidate still warms up if each of its last three samples is below the one before and the
last is below the first by more than this fraction."""
WARM_UP_ROUNDS = (3, 12)
"""Fewest and most rounds. With fewer than three, nobody can tell whether the times are stable."""
LONG_BLOCK = 10.0
"""Seconds. If a block takes longer, fewer blocks are timed by default."""
PAUSE_SECONDS = 0.05
"""Pause after a block that does not count, so that the device recovers."""


class Throttled(WorkFailed):
    """A Throttled says that the device's clock rate was too low in too many blocks.

    ``slow`` is the number of blocks that do not count, ``good`` the number of those that do.
    """

    def __init__(self, slow: int, good: int) -> None:
        super().__init__(
            f"throttled: the clock was under {SLOW:.0%} of its default rate in {slow} of"
            f" {slow + good} blocks, which do not count"
        )
        self.slow = slow


@dataclass(frozen=True)
class Samples:
    """Samples are the seconds per call that :func:`interleave` measured for each candidate."""

    seconds: dict[str, tuple[float, ...]]
    """By candidate, one value per block: the mean of the candidate's two samples in it."""
    warm: bool
    """True if the warm-up became stable before the blocks began."""
    slow: int = 0
    """Number of blocks thrown away and measured again because the clock rate was too low."""


def interleave(
    candidates: Mapping[str, Call],
    clock: Clock,
    trials: int | None = None,
    *,
    warm_up: tuple[int, int] = WARM_UP_ROUNDS,
    seed: int = 0,
    tick: Callable[[float], object] = lambda _: None,
) -> Samples:
    """Time ``candidates`` in ``trials`` blocks, each in a random order and its reverse (A/B/B/A).

    A drift that is linear over a block adds the same to every candidate, and no candidate always
    follows the same neighbour. Before the blocks there are warm-up rounds over all candidates
    (``warm_up``: fewest and most), until no candidate's last three samples fall (:data:`FALLING`).
    ``trials=None`` stands for :data:`~tp_vgg.latency.table.TRIALS`, or for
    :data:`~tp_vgg.latency.table.FEW_TRIALS` if a block takes :data:`LONG_BLOCK` seconds or more.
    After each block that counts, ``tick`` is called with that block's fraction of all blocks.

    A block does not count, and is measured again, if the device's clock rate before or after it is
    under :data:`~tp_vgg.latency.table.SLOW` of the default rate. There are at most ``2 * trials``
    blocks in all. Raises :class:`Throttled` if fewer than
    :data:`~tp_vgg.latency.table.FEWEST_TRIALS` of them count (or fewer than ``trials``, if that is
    less).
    """
    warm, last = _warm_up(candidates, clock, *warm_up)
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
    """Time one block; return the mean of both samples of each candidate, in seconds."""
    seconds = dict.fromkeys(order, 0.0)
    for name in (*order, *reversed(order)):
        seconds[name] += clock.sample(candidates[name]) / 2
    return seconds


def _warm_up(
    candidates: Mapping[str, Call], clock: Clock, fewest: int, most: int
) -> tuple[bool, dict[str, float]]:
    """Warm up; return whether all candidates became stable, and each one's last sample."""
    last: dict[str, list[float]] = {name: [] for name in candidates}
    stable = False
    for rounds in range(1, most + 1):
        for name, call in candidates.items():
            last[name] = [*last[name][-2:], clock.sample(call)]
        stable = rounds >= 3 and not any(_falling(*samples) for samples in last.values())
        if stable and rounds >= fewest:
            break
    return stable, {name: samples[-1] for name, samples in last.items()}


def _falling(first: float, second: float, third: float) -> bool:
    return first > second > third and third < (1 - FALLING) * first
