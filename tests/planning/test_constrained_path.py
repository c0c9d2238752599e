"""The constrained search agrees with enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tp_vgg.planning.constrained_path import (
    NotFound,
    constrained_shortest_path,
)
from tp_vgg.planning.largest_path import largest_path
from tp_vgg.planning.multipliers import Solution
from tp_vgg.planning.pareto_front import front_of_more, front_of_two


def random_chain(
    rng: np.random.Generator, *, limits: int, coupled: bool, whole: bool
) -> list[np.ndarray]:
    """A chain of 2 to 4 layers with up to 6 options; ``whole`` costs are integers with ties."""
    counts = [1, *rng.integers(1, 7, rng.integers(2, 5))]
    chain = []
    for before, here in itertools.pairwise(counts):
        costs = rng.integers(0, 20, (limits + 1, before, here)).astype(float)
        costs[0] = costs[0] if whole else rng.random((before, here))
        chain.append(costs if coupled else np.repeat(costs[:, :1], before, axis=1))
    return chain


def all_paths(chain: list[np.ndarray]) -> dict[tuple[int, ...], np.ndarray]:
    every = itertools.product(*(range(costs.shape[2]) for costs in chain))
    return {choice: total(chain, choice) for choice in every}


def total(chain: list[np.ndarray], choice: tuple[int, ...]) -> np.ndarray:
    return sum(costs[:, i, j] for costs, i, j in zip(chain, (0, *choice), choice, strict=False))


@pytest.mark.parametrize("limits", [0, 1, 2, 3])
def test_equals_enumeration_on_random_chains(limits: int) -> None:
    """200 chains per number of limits; some of the limits can't be met."""
    rng = np.random.default_rng(limits)
    unreachable = 0
    for trial in range(200):
        chain = random_chain(rng, limits=limits, coupled=trial % 3 > 0, whole=trial % 2 > 0)
        paths = all_paths(chain)
        sums = np.array(list(paths.values()))
        limit = np.quantile(sums[:, 1:], rng.random() * 0.6, axis=0) - (trial % 4 == 0)
        within = sums[(sums[:, 1:] <= limit).all(axis=1), 0]
        found = constrained_shortest_path(chain, limit)
        if not len(within):
            unreachable += 1
            assert found is None
            continue
        assert found is not None
        assert found.totals[0] == pytest.approx(within.min(), abs=1e-9)
        assert found.totals == pytest.approx(paths[found.choice])
        assert all(np.asarray(found.totals[1:]) <= limit * (1 + 1e-9) + 1e-9)
        assert found.gap == 0
    assert limits == 0 or 0 < unreachable < 150


def test_finds_what_no_multiplier_finds() -> None:
    """The best option within the limit may lie above the convex hull.

    Of (cost, loss) = (0, 10), (6, 6), (10, 0) the middle one lies above the line between the
    others, and is the best within a cost of 9.
    """
    chain = [np.array([[[10.0, 6.0, 0.0]], [[0.0, 6.0, 10.0]]])]
    assert constrained_shortest_path(chain, [9]) == Solution((1,), (6.0, 6.0), 6.0)


@pytest.mark.parametrize("cap", [1, 3, 10])
def test_says_what_a_lack_of_room_can_have_cost(cap: int) -> None:
    rng = np.random.default_rng(0)
    gaps = []
    for _ in range(60):
        chain = [rng.random((3, before, 12)) for before in (1, 12, 12, 12)]
        sums = np.array(list(all_paths([costs[:, :6, :6] for costs in chain]).values()))
        limit = np.quantile(sums[:, 1:], 0.05, axis=0)
        best, found = (
            constrained_shortest_path(chain, limit),
            constrained_shortest_path(chain, limit, cap),
        )
        assert best is not None and found is not None
        assert found.bound <= best.totals[0] + 1e-9 <= found.totals[0] + 2e-9
        gaps.append(found.gap)
    assert max(gaps) > 0


@pytest.mark.parametrize("cap", [1, 10, 50_000])
def test_none_is_said_only_where_there_is_none(cap: int) -> None:
    """Limits that a path just meets but no multiplier finds, and slightly tighter ones."""
    rng = np.random.default_rng(1)
    kinds = {"found": 0, "none": 0, "open": 0}
    for trial in range(30):
        chain = [rng.random((3, before, 6)) for before in (1, 6, 6, 6)]
        sums = np.array(list(all_paths(chain).values()))
        tight = sums[sums[:, 1:].max(axis=1).argsort()[trial % 5], 1:] - 0.01 * (trial % 2)
        within = (sums[:, 1:] <= tight).all(axis=1).any()
        try:
            found = constrained_shortest_path(chain, tight, cap)
        except NotFound:
            kinds["open"] += 1
            continue
        kinds["none" if found is None else "found"] += 1
        assert (found is not None) == within
    assert kinds["found"] and kinds["none"] and (cap == 1 or not kinds["open"])


def test_a_front_keeps_the_first_of_equals_and_nothing_beaten() -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 6, (500, 2)).astype(float)
    kept = front_of_more(rows, width=32)
    assert (front_of_two(rows) == kept).all()
    for i, row in enumerate(rows):
        beaten = any((rows[j] <= row).all() for j in range(i))
        assert kept[i] == (not beaten)


@pytest.mark.parametrize("limited", [False, True], ids=["free", "size limited too"])
@pytest.mark.parametrize("limits", [1, 2, 3])
def test_the_largest_equals_enumeration_on_random_chains(limits: int, limited: bool) -> None:
    """100 chains each; sizes with many ties, of which the second size decides."""
    rng = np.random.default_rng(limits)
    larger = ties = 0
    for trial in range(100):
        chain = random_chain(rng, limits=limits - 1, coupled=trial % 3 > 0, whole=trial % 2 > 0)
        sizes = [rng.integers(0, 5, (2, *costs.shape[1:])).astype(float) for costs in chain]
        if limited:
            chain = [np.concatenate([c, s[:1]]) for c, s in zip(chain, sizes, strict=True)]
        every = [np.concatenate(parts) for parts in zip(chain, sizes, strict=True)]
        paths = all_paths(every)
        limit = np.quantile(list(paths.values()), rng.uniform(0.3, 0.9), axis=0)[:-2]
        within = {c: s for c, s in paths.items() if (s[:-2] <= limit).all()}
        if not within:
            continue
        start = min(within, key=lambda choice: within[choice][0])
        found = largest_path(every, limit, start, enough=0)
        best = max(tuple(sums[-2:]) for sums in within.values())
        assert found.choice in within
        assert tuple(within[found.choice][-2:]) == best
        assert found.size == found.bound == best[0]
        larger += best > tuple(within[start][-2:])
        ties += len({tuple(s[-2:]) for s in within.values() if s[-2] == best[0]}) > 1
    assert larger > 20 and ties > 5


def test_the_largest_of_many_is_near_the_limit_and_says_how_near() -> None:
    """With 100 options in each of 8 layers not all sums can be tried; the bound holds anyway."""
    rng = np.random.default_rng(0)
    sizes = [rng.integers(0, 10**6, (2, 1 if i == 0 else 100, 100)).astype(float) for i in range(8)]
    chain = [np.concatenate([rng.random((1, *s.shape[1:])), s[:1], s]) for s in sizes]
    start = constrained_shortest_path([costs[:2] for costs in chain], [4e6])
    assert start is not None
    found = largest_path(chain, [start.totals[0] + 2, 4e6], start.choice, enough=100)
    sums = total(chain, found.choice)
    assert sums[0] <= start.totals[0] + 2 and sums[1] == found.size <= found.bound <= 4e6
    assert found.bound - found.size <= 100
    assert found == largest_path(chain, [start.totals[0] + 2, 4e6], start.choice, enough=100)
