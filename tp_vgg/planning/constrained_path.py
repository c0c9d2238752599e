"""This module solves the constrained shortest path problem on a chain of choices.

The search is exact: labels with Lagrangian bounds.

This module does not import torch.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

CAP = 50_000
"""Most labels kept per layer, by default."""
BEAM = 500
"""Labels kept per layer in the first, quick pass; the solution of each pass bounds the next."""
CUTS = 40
"""Most rounds of the search for multipliers; few problems need twenty."""
BOUNDS = 6
"""Number of multiplier vectors that bound the labels: the best ones found."""
SLACK = 1e-9
"""Relative tolerance: sums that differ by less are equal."""
CHUNK = 1 << 20
"""Most pairs of label and option that are evaluated at once, which limits the memory."""


class NotFound(Exception):
    """A NotFound says that the search found no solution and did not prove that there is none.

    The reason is that more labels were needed than ``cap`` allows.
    """


ChoiceCosts = Sequence[np.ndarray]
"""One array per layer: the costs [components, options of the layer before, options of this layer].

Component 0 is minimised, the others are limited. The first layer has one option before it."""


@dataclass(frozen=True)
class Solution:
    """A solution names one option per layer and its summed costs."""

    choice: tuple[int, ...]
    """Index of the chosen option of each layer."""
    totals: tuple[float, ...]
    """Each component, summed over the layers."""
    bound: float
    """A lower bound on component 0 of every solution within the limits.

    It equals ``totals[0]`` if no label was discarded for lack of room."""

    @property
    def gap(self) -> float:
        """Return by how much component 0 may exceed its minimum; 0 if it is proved optimal."""
        return self.totals[0] - self.bound


def constrained_shortest_path(
    choice_costs: ChoiceCosts, limits: Sequence[float], cap: int = CAP
) -> Solution | None:
    """Minimise component 0 within the limits; return ``None`` if no solution is within them.

    ``limits[0]`` is the largest allowed sum of component 1, ``limits[1]`` that of component 2, and
    so on. ``cap`` is the number of labels that are kept per layer.

    A label holds the options chosen for the first layers and their summed costs. Labels are
    extended layer by layer. A label is discarded if it can't stay within the limits, if another
    label at the same option is no worse in any component (Pareto dominance), or if its lower bound
    shows that it can't lead to a better solution than the best one known.

    For the bound, the limits are priced with Lagrange multipliers; the cheapest rest of the path at
    these prices is read from a table (dynamic programming). Multipliers alone find only solutions
    on the convex hull. As bounds they lose no solution. They are found with cutting planes. If more
    than ``cap`` labels are left, those with the worst bounds are discarded too, and
    :attr:`Solution.bound` takes them into account.

    With several limits, the search for multipliers may meet no solution within all of them. Then
    one is searched for first: the last limited component is minimised within the other limits.
    Raises :class:`NotFound` if ``cap`` leaves open whether there is a solution.

    Sources: Handler & Zang 1980 (the bound), Kelley 1960 (the cuts).
    """
    upper = np.asarray(limits, float)
    upper = upper + SLACK * np.abs(upper)
    incumbent, tables = _price(choice_costs, upper)
    if tables is None:
        return None
    if incumbent is None:
        least_last = constrained_shortest_path(
            [costs[[-1, *range(1, len(upper))]] for costs in choice_costs], limits[:-1], cap
        )
        if least_last is None or least_last.bound > upper[-1]:
            return None
        if least_last.totals[0] > upper[-1]:
            raise NotFound
        incumbent = _solution(choice_costs, least_last.choice)
    for pass_cap in _caps(cap):
        incumbent, discarded_bound = _walk(choice_costs, upper, tables, incumbent, pass_cap)
        if discarded_bound >= incumbent.totals[0] - _tolerance(incumbent):
            break
    return replace(incumbent, bound=min(discarded_bound, incumbent.totals[0]))


def _caps(cap: int) -> list[int]:
    """Return the cap of each pass: from :data:`BEAM` to ``cap``, growing by a factor of four.

    The solution of a pass with a small cap lets most labels be discarded before they fill more.
    """
    caps = [min(BEAM, cap)]
    while caps[-1] < cap:
        caps.append(4 * caps[-1] if 8 * caps[-1] <= cap else cap)
    return caps


def _solution(choice_costs: ChoiceCosts, choice: Sequence[int]) -> Solution:
    totals = sum(
        costs[:, i, j] for costs, i, j in zip(choice_costs, (0, *choice), choice, strict=False)
    )
    return Solution(tuple(choice), tuple(np.asarray(totals).tolist()), -np.inf)


def _tolerance(solution: Solution) -> float:
    return SLACK * abs(solution.totals[0])


@dataclass(frozen=True)
class _Tables:
    """The tables hold the least cost from each option to the end, at several multiplier vectors."""

    weights: np.ndarray
    """[vectors, components]: 1 for component 0, and the multipliers of the limited components."""
    credit: np.ndarray
    """[vectors]: the limits times their multipliers."""
    rest: tuple[np.ndarray, ...]
    """For each layer, [vectors, options]: the least weighted cost of the layers behind it."""
    least: tuple[np.ndarray, ...]
    """For each layer, [limits, options]: the least sum of each limited component behind it."""

    def bounds(self, totals: np.ndarray, layer: int, options: np.ndarray) -> np.ndarray:
        """Return lower bounds [n] on component 0 of every solution that continues these labels.

        ``totals``: the labels' sums [n, components] up to ``layer``; ``options``: their options
        [n] there.
        """
        priced = np.einsum("pc,nc->pn", self.weights, totals) + self.rest[layer][:, options]
        return np.asarray((priced - self.credit[:, None]).max(axis=0))


def _to_go(choice_costs: ChoiceCosts, weights: np.ndarray) -> list[np.ndarray]:
    """Return the cost-to-go: for each layer, the least weighted cost behind each option [options].

    Entry 0 is for the single option before the first layer; the last entry is zero.
    """
    tables = [np.zeros(choice_costs[-1].shape[2])]
    for costs in reversed(choice_costs):
        tables.append((np.tensordot(weights, costs, 1) + tables[-1]).min(axis=1))
    return tables[::-1]


def _follow(choice_costs: ChoiceCosts, weights: np.ndarray, to_go: list[np.ndarray]) -> Solution:
    """Return the solution of least weighted cost, which may exceed the limits."""
    option, choice = 0, []
    for costs, rest in zip(choice_costs, to_go[1:], strict=True):
        choice.append(option := int((weights @ costs[:, option, :] + rest).argmin()))
    return _solution(choice_costs, choice)


def _price(choice_costs: ChoiceCosts, limits: np.ndarray) -> tuple[Solution | None, _Tables | None]:
    """Search for multipliers; return the best solution met within the limits, and the tables.

    The tables are those of the :data:`BOUNDS` best multiplier vectors; ``None`` if one of the
    limits can't be met even by itself.
    """
    from scipy.optimize import linprog

    count = len(limits)
    least = [_to_go(choice_costs, row) for row in np.eye(count + 1)[1:]]
    if any(table[0][0] > limit for table, limit in zip(least, limits, strict=True)):
        return None, None
    scale = np.maximum(limits, 1e-12)
    best: Solution | None = None
    solutions = [
        _follow(choice_costs, row, table)
        for row, table in zip(np.eye(count + 1)[1:], least, strict=True)
    ]
    duals: list[tuple[float, np.ndarray]] = []
    multipliers = np.zeros(count)
    ceiling = 1e3 * sum(float(costs[0].max() - costs[0].min()) for costs in choice_costs) + 1e-12
    for _ in range(CUTS):
        weights = np.concatenate([[1.0], multipliers / scale])
        to_go = _to_go(choice_costs, weights)
        duals.append((float(to_go[0][0] - weights[1:] @ limits), weights))
        solutions.append(_follow(choice_costs, weights, to_go))
        for solution in solutions[-1:] if len(duals) > 1 else solutions:
            if np.all(np.asarray(solution.totals[1:]) <= limits) and (
                best is None or solution.totals[0] < best.totals[0]
            ):
                best = solution
        if not count:
            break
        # maximise theta, subject to a cut for each solution so far:
        # theta <= totals[0] + multipliers · (totals[1:] - limits) / scale
        totals = np.array([solution.totals for solution in solutions])
        optimum = linprog(
            np.array([-1.0, *[0.0] * count]),
            A_ub=np.column_stack([np.ones(len(totals)), -(totals[:, 1:] - limits) / scale]),
            b_ub=totals[:, 0],
            bounds=[(None, None), *[(0, ceiling)] * count],
        )
        best_dual = max(dual for dual, _ in duals)
        if not optimum.success or -optimum.fun <= best_dual + SLACK * abs(best_dual):
            break
        multipliers = np.maximum(optimum.x[1:], 0)
    chosen = [weights for _, weights in sorted(duals, key=lambda dual: -dual[0])[:BOUNDS]]
    return best, _tables(choice_costs, limits, least, chosen)


def _tables(
    choice_costs: ChoiceCosts,
    limits: np.ndarray,
    least: Sequence[Sequence[np.ndarray]],
    chosen: Sequence[np.ndarray],
) -> _Tables:
    """Build the tables for the ``chosen`` weights.

    ``least``: the cost-to-go of each limited component by itself.
    """
    count = len(limits)
    to_gos = [_to_go(choice_costs, weights) for weights in chosen]
    layers = range(1, len(choice_costs) + 1)
    return _Tables(
        np.array(chosen),
        np.array([weights[1:] @ limits for weights in chosen]),
        tuple(np.array([to_go[layer] for to_go in to_gos]) for layer in layers),
        tuple(
            np.array([table[layer] for table in least]).reshape(
                count, choice_costs[layer - 1].shape[2]
            )
            for layer in layers
        ),
    )


def _walk(
    choice_costs: ChoiceCosts, limits: np.ndarray, tables: _Tables, incumbent: Solution, cap: int
) -> tuple[Solution, float]:
    """Extend labels through all layers; return the best solution and a bound on the rest.

    The solution is ``incumbent`` or a better one. The bound is the least lower bound of the labels
    that were discarded because more than ``cap`` were left; infinite if there were none.
    """
    components = len(limits) + 1
    totals, options = np.zeros((1, components)), np.zeros(1, int)
    trail: list[tuple[np.ndarray, np.ndarray]] = []
    discarded_bound = np.inf
    ceiling = incumbent.totals[0] - _tolerance(incumbent)
    for layer, costs in enumerate(choice_costs):
        parents, chosen, sums, bounds = _extend(
            costs, totals, options, layer, limits, tables, ceiling
        )
        if not len(chosen):
            return incumbent, discarded_bound
        # If the next layer costs the same behind every option, labels at different options compare.
        one_group = (
            layer + 1 == len(choice_costs) or not np.ptp(choice_costs[layer + 1], axis=1).any()
        )
        order = np.lexsort((*sums.T[::-1], *([] if one_group else [chosen])))
        groups = np.zeros(len(chosen), int) if one_group else chosen
        keep = order[_pareto(sums[order], groups[order])]
        if len(keep) > cap:
            ranked = keep[np.argsort(bounds[keep], kind="stable")]
            keep = ranked[:cap]
            discarded_bound = min(discarded_bound, float(bounds[ranked[cap]]))
        trail.append((parents[keep], chosen[keep]))
        totals, options = sums[keep], chosen[keep]
    last = int(totals[:, 0].argmin())
    choice, at = [], last
    for parents, chosen in reversed(trail):
        choice.append(int(chosen[at]))
        at = int(parents[at])
    solution = Solution(tuple(choice[::-1]), tuple(totals[last].tolist()), -np.inf)
    return solution, discarded_bound


def _extend(
    costs: np.ndarray,
    totals: np.ndarray,
    options: np.ndarray,
    layer: int,
    limits: np.ndarray,
    tables: _Tables,
    ceiling: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Extend each label by each option of the layer; keep the labels that can still pay.

    These can stay within the limits, and their bound is below ``ceiling``. Returns, for each new
    label: the index of the label that it extends [n], its option [n], its sums [n, components] and
    its bound [n].
    """
    count = costs.shape[2]
    labels_per_chunk = max(CHUNK // count, 1)
    chunks = []
    for start in range(0, len(totals), labels_per_chunk):
        parents = np.repeat(np.arange(start, min(start + labels_per_chunk, len(totals))), count)
        chosen = np.tile(np.arange(count), len(parents) // count)
        sums = totals[parents] + costs[:, options[parents], chosen].T
        fits = np.all(sums[:, 1:] + tables.least[layer][:, chosen].T <= limits, axis=1)
        parents, chosen, sums = parents[fits], chosen[fits], sums[fits]
        bounds = tables.bounds(sums, layer, chosen)
        better = bounds < ceiling
        chunks.append((parents[better], chosen[better], sums[better], bounds[better]))
    parents, chosen, sums, bounds = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    return parents, chosen, sums, bounds


def _pareto(sums: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the indices of the rows that no other row of their group dominates; of equals, one.

    ``sums`` [n, components] is sorted by group, then by component 0, 1, and so on. ``groups``: the
    group [n] of each row.
    """
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
    """Return :func:`_front` of two components, in n log n steps.

    The front of two components is a staircase, so only one of its steps can dominate a row.
    """
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
    """Return a mask [n] of the rows of ``block`` [n, components] that no earlier row dominates.

    The rows are one group of :func:`_pareto` without component 0, which never falls from row to
    row. So only earlier rows can dominate. ``width``: rows that are compared at once.
    """
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
