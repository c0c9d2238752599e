"""The constrained_shortest_path path through a chain of choices under limits: exact, by labels with Lagrangian bounds (no torch)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

CAP = 50_000
"""Labels kept a layer."""
BEAM = 500
"""Labels kept a layer in the first, quick pass; each pass's path bounds the next."""
CUTS = 40
"""Most rounds of the search for multipliers; few problems need twenty."""
BOUNDS = 6
"""Multipliers that the labels are held against: the best ones found."""
SLACK = 1e-9
"""Relative: sums nearer than this are equal."""
CHUNK = 1 << 20
"""Candidates looked at in one go."""


class NotFound(Exception):
    """No path within the limits was found, nor is it shown that there is none: room for labels ran out."""


ChoiceCosts = Sequence[np.ndarray]
"""A layer each: the costs [components, options of the layer before, options of this one]. Component 0 is what is minimised. The first
layer has one option before it."""


@dataclass(frozen=True)
class Solution:
    """One option a layer, within the limits."""

    choice: tuple[int, ...]
    totals: tuple[float, ...]
    """Each component, summed over the layers."""
    bound: float
    """No path within the limits has less of component 0; equal to ``totals[0]`` where no label had to go for want of room."""

    @property
    def gap(self) -> float:
        return self.totals[0] - self.bound


def constrained_shortest_path(
    chain: ChoiceCosts, limits: Sequence[float], cap: int = CAP
) -> Solution | None:
    """Minimise component 0 while component 1 stays at most ``limits[0]``, component 2 at most ``limits[1]``, …; ``None`` where no path does.

    Labels (paths so far) go forward, layer by layer. One is dropped where another at the same option is no worse in any component
    (Pareto), and where what is left of the way can't make it better than a path already known: the limits are priced with Lagrange
    multipliers, and the constrained_shortest_path rest at those prices is a table of the chain. A multiplier alone finds the convex hull of the paths only;
    as a bound it loses none. Multipliers come from cutting planes. Over ``cap`` labels, those with the worst bounds go, and
    ``bound`` keeps account of it.

    Where the multipliers met no path within several limits, one is looked for first: the least of the last limited component within the
    other limits. Raises :class:`NotFound` where ``cap`` leaves open whether there is any.

    Sources: Handler & Zang 1980 (the bound), Kelley 1960 (the cuts).
    """
    limit = np.asarray(limits, float)
    limit = limit + SLACK * np.abs(limit)
    known, tables = _price(chain, limit)
    if tables is None:
        return None
    if known is None:
        frugal = constrained_shortest_path(
            [costs[[-1, *range(1, len(limit))]] for costs in chain], limits[:-1], cap
        )
        if frugal is None or frugal.bound > limit[-1]:
            return None
        if frugal.totals[0] > limit[-1]:
            raise NotFound
        known = _path(chain, frugal.choice)
    for room in _rooms(cap):
        known, lost = _walk(chain, limit, tables, known, room)
        if lost >= known.totals[0] - _tolerance(known):
            break
    return replace(known, bound=min(lost, known.totals[0]))


def _rooms(cap: int) -> list[int]:
    """Growing by four: the path that little room finds lets most labels go before they fill more."""
    rooms = [min(BEAM, cap)]
    while rooms[-1] < cap:
        rooms.append(4 * rooms[-1] if 8 * rooms[-1] <= cap else cap)
    return rooms


def _path(chain: ChoiceCosts, choice: Sequence[int]) -> Solution:
    totals = sum(costs[:, i, j] for costs, i, j in zip(chain, (0, *choice), choice, strict=False))
    return Solution(tuple(choice), tuple(np.asarray(totals).tolist()), -np.inf)


def _tolerance(path: Solution) -> float:
    return SLACK * abs(path.totals[0])


@dataclass(frozen=True)
class _Tables:
    """What is left to pay from each option on, at several prices."""

    weights: np.ndarray
    """[prices, components]"""
    credit: np.ndarray
    """[prices] What the limits are worth at the price."""
    rest: tuple[np.ndarray, ...]
    """After each layer, [prices, options]."""
    least: tuple[np.ndarray, ...]
    """After each layer, [limits, options]: the least that the rest takes of each limited component."""

    def bounds(self, totals: np.ndarray, layer: int, options: np.ndarray) -> np.ndarray:
        """Lower bounds [n] on component 0 of any whole path from these labels; infinite where one can't stay within the limits."""
        priced = np.einsum("pc,nc->pn", self.weights, totals) + self.rest[layer][:, options]
        return np.asarray((priced - self.credit[:, None]).max(axis=0))


def _to_go(chain: ChoiceCosts, weights: np.ndarray) -> list[np.ndarray]:
    """The least weighted cost behind each option: by layer, [options]; the last is zero."""
    found = [np.zeros(chain[-1].shape[2])]
    for costs in reversed(chain):
        found.append((np.tensordot(weights, costs, 1) + found[-1]).min(axis=1))
    return found[::-1]


def _follow(chain: ChoiceCosts, weights: np.ndarray, to_go: list[np.ndarray]) -> Solution:
    """The path of least weighted cost."""
    option, choice = 0, []
    for costs, rest in zip(chain, to_go[1:], strict=True):
        choice.append(option := int((weights @ costs[:, option, :] + rest).argmin()))
    return _path(chain, choice)


def _price(chain: ChoiceCosts, limit: np.ndarray) -> tuple[Solution | None, _Tables | None]:
    """The best path met while looking for multipliers, and the tables of the best of these; no tables where a limit can't be met."""
    from scipy.optimize import linprog

    count = len(limit)
    least = [_to_go(chain, row) for row in np.eye(count + 1)[1:]]
    if any(table[0][0] > bound for table, bound in zip(least, limit, strict=True)):
        return None, None
    scale = np.maximum(limit, 1e-12)
    best: Solution | None = None
    paths = [
        _follow(chain, row, table) for row, table in zip(np.eye(count + 1)[1:], least, strict=True)
    ]
    duals: list[tuple[float, np.ndarray]] = []
    prices = np.zeros(count)
    ceiling = 1e3 * sum(float(costs[0].max() - costs[0].min()) for costs in chain) + 1e-12
    for _ in range(CUTS):
        weights = np.concatenate([[1.0], prices / scale])
        to_go = _to_go(chain, weights)
        duals.append((float(to_go[0][0] - weights[1:] @ limit), weights))
        paths.append(_follow(chain, weights, to_go))
        for path in paths[-1:] if len(duals) > 1 else paths:
            if np.all(np.asarray(path.totals[1:]) <= limit) and (
                best is None or path.totals[0] < best.totals[0]
            ):
                best = path
        if not count:
            break
        # maximise theta with theta <= objective + prices · (totals - limit) / scale for every path so far
        totals = np.array([path.totals for path in paths])
        found = linprog(
            np.array([-1.0, *[0.0] * count]),
            A_ub=np.column_stack([np.ones(len(totals)), -(totals[:, 1:] - limit) / scale]),
            b_ub=totals[:, 0],
            bounds=[(None, None), *[(0, ceiling)] * count],
        )
        reached = max(dual for dual, _ in duals)
        if not found.success or -found.fun <= reached + SLACK * abs(reached):
            break
        prices = np.maximum(found.x[1:], 0)
    chosen = [weights for _, weights in sorted(duals, key=lambda dual: -dual[0])[:BOUNDS]]
    return best, _tables(chain, limit, least, chosen)


def _tables(
    chain: ChoiceCosts,
    limit: np.ndarray,
    least: Sequence[Sequence[np.ndarray]],
    chosen: Sequence[np.ndarray],
) -> _Tables:
    """Of the ``chosen`` weights; ``least``: the least of each limited cost that is still to come."""
    count = len(limit)
    to_gos = [_to_go(chain, weights) for weights in chosen]
    layers = range(1, len(chain) + 1)
    return _Tables(
        np.array(chosen),
        np.array([weights[1:] @ limit for weights in chosen]),
        tuple(np.array([to_go[layer] for to_go in to_gos]) for layer in layers),
        tuple(
            np.array([table[layer] for table in least]).reshape(count, chain[layer - 1].shape[2])
            for layer in layers
        ),
    )


def _walk(
    chain: ChoiceCosts, limit: np.ndarray, tables: _Tables, known: Solution, cap: int
) -> tuple[Solution, float]:
    """The best whole path, ``known`` or better; and the least bound of the labels that had to go for want of room."""
    components = len(limit) + 1
    totals, options = np.zeros((1, components)), np.zeros(1, int)
    trail: list[tuple[np.ndarray, np.ndarray]] = []
    lost = np.inf
    ceiling = known.totals[0] - _tolerance(known)
    for layer, costs in enumerate(chain):
        parents, here, sums, bounds = _extend(costs, totals, options, layer, limit, tables, ceiling)
        if not len(here):
            return known, lost
        free = layer + 1 == len(chain) or not np.ptp(chain[layer + 1], axis=1).any()
        order = np.lexsort((*sums.T[::-1], *([] if free else [here])))
        groups = np.zeros(len(here), int) if free else here
        keep = order[_pareto(sums[order], groups[order])]
        if len(keep) > cap:
            ranked = keep[np.argsort(bounds[keep], kind="stable")]
            keep, lost = ranked[:cap], min(lost, float(bounds[ranked[cap]]))
        trail.append((parents[keep], here[keep]))
        totals, options = sums[keep], here[keep]
    last = int(totals[:, 0].argmin())
    choice, at = [], last
    for parents, here in reversed(trail):
        choice.append(int(here[at]))
        at = int(parents[at])
    return Solution(tuple(choice[::-1]), tuple(totals[last].tolist()), -np.inf), lost


def _extend(
    costs: np.ndarray,
    totals: np.ndarray,
    options: np.ndarray,
    layer: int,
    limit: np.ndarray,
    tables: _Tables,
    ceiling: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Every label with every option of the layer, where it may yet end below ``ceiling``: parents, options, sums, bounds."""
    count = costs.shape[2]
    each = max(CHUNK // count, 1)
    found = []
    for start in range(0, len(totals), each):
        label = np.repeat(np.arange(start, min(start + each, len(totals))), count)
        here = np.tile(np.arange(count), len(label) // count)
        sums = totals[label] + costs[:, options[label], here].T
        fits = np.all(sums[:, 1:] + tables.least[layer][:, here].T <= limit, axis=1)
        label, here, sums = label[fits], here[fits], sums[fits]
        bounds = tables.bounds(sums, layer, here)
        better = bounds < ceiling
        found.append((label[better], here[better], sums[better], bounds[better]))
    parents, here, sums, bounds = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return parents, here, sums, bounds


def _pareto(sums: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Indices of the rows of ``sums``, sorted by group and then by component 0, 1, …, that no other of the same group equals or beats everywhere."""
    keep = np.zeros(len(sums), bool)
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(sums)], strict=True):
        block = sums[start:end, 1:]
        if block.shape[1] <= 1:
            column = block[:, 0] if block.shape[1] else np.zeros(len(block))
            before = np.minimum.accumulate(np.concatenate([[np.inf], column[:-1]]))
            keep[start:end] = column < before
        else:
            keep[start:end] = (_front_of_two if block.shape[1] == 2 else _front)(block)
    return np.flatnonzero(keep)


def _front_of_two(block: np.ndarray) -> np.ndarray:
    """:func:`_front` of two components, n log n: the front is a staircase, so that each row has one step to be beaten by."""
    keep = np.zeros(len(block), bool)
    firsts: list[float] = []
    seconds: list[float] = []
    for row, (first, second) in enumerate(block.tolist()):
        at = bisect_right(firsts, first)
        if at and seconds[at - 1] <= second:
            continue
        start = end = bisect_left(firsts, first)
        while end < len(seconds) and seconds[end] >= second:
            end += 1
        firsts[start:end], seconds[start:end] = [first], [second]
        keep[row] = True
    return keep


def _front(block: np.ndarray, width: int = 128) -> np.ndarray:
    """The same for one group in several components; component 0 does not fall from row to row and is left out."""
    keep = np.zeros(len(block), bool)
    front = np.empty((0, block.shape[1]))
    for start in range(0, len(block), width):
        rows = block[start : start + width]
        alive = ~np.any(np.all(front[None] <= rows[:, None], axis=2), axis=1)
        beaten = np.all(rows[None] <= rows[:, None], axis=2) & np.tri(len(rows), k=-1, dtype=bool)
        alive &= ~np.any(beaten, axis=1)
        keep[start : start + len(rows)] = alive
        front = np.concatenate([front, rows[alive]])
    return keep
