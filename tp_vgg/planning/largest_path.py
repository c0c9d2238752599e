"""This module finds the largest solution among those that cost little more than the cheapest.

The search is that of :func:`~tp_vgg.planning.constrained_path.constrained_shortest_path`, for two
sizes that are maximised one after the other.

This module does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tp_vgg.planning.multipliers import CUTS, SLACK, ChoiceCosts, Tables, price
from tp_vgg.planning.pareto_front import pareto

EFFORTS = (1 << 15, 1 << 17)
"""Most pairs of label and option per layer in each pass; the solution of a pass lets the next
discard more."""
FEW = 200_000
"""If there are at most this many choices in all, no label is left out for lack of room."""
ROOM = 8
"""Labels per kept one that are compared with each other; the others have worse bounds."""
ROUNDS = 6
"""Most rounds of the search for multipliers that only sort labels or discard some."""
CHUNK = 1 << 20
"""Most pairs of label and option that are evaluated at once, which limits the memory."""


@dataclass(frozen=True)
class Largest:
    """A largest solution names one option per layer, and says how large others can be."""

    choice: tuple[int, ...]
    """Index of the chosen option of each layer."""
    size: int
    """The first size, summed over the layers."""
    bound: int
    """No solution within the limits has a larger first size; ``size`` if it is proved largest."""


def largest_path(
    costs: ChoiceCosts, limits: Sequence[float], start: Sequence[int], *, enough: float
) -> Largest:
    """Maximise the first of two sizes, then the second, within the limits on all costs.

    ``costs``: as for ``constrained_shortest_path``, but component 0 is limited too, and the last
    two components are the sizes, whole numbers.
    ``limits``: the largest allowed sum of each of the other components.
    ``start``: the choice of a solution within the limits; the result is no smaller.
    ``enough``: if there are more than :data:`FEW` choices, first sizes that are proved to be within
    this of the largest count as equal: the search ends with one of them, ``start`` before others.
    Otherwise it ends once no other solution can be larger in the first size, or as large and larger
    in the second.

    A label is discarded if another one at the same option is as large and costs no more, or if its
    bounds show that it ends outside of the limits or is no larger than the best solution known.

    With a limit on the first size this is a subset-sum problem: labels with different sums do not
    dominate each other, and nearly all of them can end close to the limit. So a pass keeps the
    labels that can reach most of the first size, and of those half for the most of the second and
    half at random (with a fixed seed).
    """
    counts = [layer.shape[2] for layer in costs]
    few, widest = math.prod(counts) <= FEW, max(counts)
    upper = np.asarray(limits, float)
    upper = upper + SLACK * np.abs(upper)
    first = _size_tables(costs, upper, -2, CUTS)
    best = _Best(tuple(start), *_sizes_of(costs, start))
    bound = int(_reach(first, -2, costs[0][:, 0].T, 0, np.arange(counts[0])).max())
    if not few and bound <= best.first + enough:
        return Largest(best.choice, best.first, max(best.first, bound))
    search = _Search.of(costs, upper, first)
    left_out = best
    for cap in (*(max(effort // widest, 1) for effort in EFFORTS), *([FEW] if few else [])):
        target = math.inf if few else bound - enough
        best, left_out = search.walk(best, cap, max(enough, 1.0), target)
        if left_out.key <= best.key or (not few and left_out.first <= best.first + enough):
            break
    return Largest(best.choice, best.first, max(best.first, min(left_out.first, bound)))


def _sizes_of(costs: ChoiceCosts, choice: Sequence[int]) -> tuple[int, int]:
    """Return both sizes of a solution."""
    steps = zip(costs, (0, *choice), choice, strict=False)
    first, second = np.sum([layer[-2:, i, j] for layer, i, j in steps], axis=0)
    return round(first), round(second)


def _size_tables(costs: ChoiceCosts, limits: np.ndarray, size: int, rounds: int) -> Tables:
    """Return the tables that bound a size, negated, within all limits."""
    negated = [np.concatenate([-layer[[size]], layer[:-2]]) for layer in costs]
    tables = price(negated, limits, rounds)[1]
    assert tables is not None, "there is a solution within the limits"
    return tables


def _reach(
    tables: Tables, size: int, sums: np.ndarray, layer: int, options: np.ndarray
) -> np.ndarray:
    """Return upper bounds [n] on the size of every solution that continues these labels."""
    totals = np.concatenate([-sums[:, [size]], sums[:, :-2]], axis=1)
    least = tables.bounds(totals, layer, options)
    # Sizes are whole numbers; a bound may be off by what floats lose.
    return np.asarray(np.floor(-least + SLACK * np.abs(least) + 1e-6))


@dataclass(frozen=True)
class _Best:
    """A best is the best solution known, or the most that the labels left out can reach."""

    choice: tuple[int, ...]
    first: int
    second: int

    @property
    def key(self) -> tuple[int, int]:
        return self.first, self.second


@dataclass(frozen=True)
class _Labels:
    """Labels hold the first layers' options and sums; one row for each label."""

    parents: np.ndarray
    """Index [n] of the label that each one extends."""
    options: np.ndarray
    """Option [n] of the last layer so far."""
    sums: np.ndarray
    """Sums [n, components + 2]: the costs, then both sizes."""
    reach: np.ndarray
    """The most [n, 2] that can be reached of each size."""

    def at(self, rows: np.ndarray) -> _Labels:
        """Return the labels of these rows."""
        return _Labels(self.parents[rows], self.options[rows], self.sums[rows], self.reach[rows])


@dataclass(frozen=True)
class _Search:
    """A search holds the costs, the limits, and the tables that bound the labels."""

    costs: ChoiceCosts
    """One array per layer [components + 2, ...]: the limited costs, then both sizes."""
    limits: np.ndarray
    near: Tables
    """Bounds on component 0 within the other limits."""
    most: tuple[Tables, Tables]
    """Bounds on each size, negated, within all limits."""
    subset_sum: bool
    """True if the first size is limited itself."""

    @classmethod
    def of(cls, costs: ChoiceCosts, limits: np.ndarray, first: Tables) -> _Search:
        near = price([layer[:-2] for layer in costs], limits[1:], ROUNDS)[1]
        assert near is not None, "there is a solution within the limits"
        subset_sum = any(
            all(np.array_equal(layer[limited], layer[-2]) for layer in costs)
            for limited in range(len(limits))
        )
        most = (first, _size_tables(costs, limits, -1, ROUNDS))
        return cls(costs, limits, near, most, subset_sum)

    def walk(self, best: _Best, cap: int, step: float, target: float) -> tuple[_Best, _Best]:
        """Extend labels through all layers, of which at most ``cap`` per layer are kept.

        Return the best solution and the most that labels that were left out can reach. ``step``:
        reaches of the first size that differ by less count as equal if labels are left out.
        ``target``: from this first size on, the second decides.
        """
        start = np.zeros((1, len(self.limits) + 2))
        labels = _Labels(np.zeros(1, int), np.zeros(1, int), start, start[:, -2:])
        trail: list[_Labels] = []
        left_out = _Best((), 0, 0)
        for layer in range(len(self.costs)):
            labels = self._extend(labels, layer, best)
            if not len(labels.options):
                return best, left_out
            ranked = _ranked(labels.reach, step)
            front = ranked[: ROOM * cap]
            front = front[self._undominated(labels.at(front), layer)]
            kept = np.zeros(len(ranked), bool)
            kept[front[:cap]] = True
            for rows in (ranked[ROOM * cap :], front[cap:]):
                if len(rows):
                    reach = labels.reach[rows]
                    most = reach[np.lexsort((reach[:, 1], reach[:, 0]))[-1]]
                    left_out = max(
                        left_out, _Best((), int(most[0]), int(most[1])), key=lambda b: b.key
                    )
            labels = labels.at(np.flatnonzero(kept))
            trail.append(labels)
        sums = labels.sums
        first = np.minimum(sums[:, -2], target)
        at = int(np.lexsort((sums[:, 0], -sums[:, -2], -sums[:, -1], -first))[0])
        first, second = sums[at, -2:]
        choice = []
        for step_back in reversed(trail):
            choice.append(int(step_back.options[at]))
            at = int(step_back.parents[at])
        ended = _Best(tuple(choice[::-1]), round(first), round(second))
        return max(best, ended, key=lambda b: b.key), left_out

    def _extend(self, labels: _Labels, layer: int, best: _Best) -> _Labels:
        """Extend each label by each option of the layer; keep those that can beat ``best``."""
        costs = self.costs[layer]
        count = costs.shape[2]
        labels_per_chunk = max(CHUNK // count, 1)
        chunks = []
        for start in range(0, len(labels.options), labels_per_chunk):
            end = min(start + labels_per_chunk, len(labels.options))
            parents = np.repeat(np.arange(start, end), count)
            options = np.tile(np.arange(count), end - start)
            sums = labels.sums[parents] + costs[:, labels.options[parents], options].T
            least = self.most[0].least[layer][:, options].T
            fits = np.flatnonzero(np.all(sums[:, :-2] + least <= self.limits, axis=1))
            near = self.near.bounds(sums[fits, :-2], layer, options[fits])
            fits = fits[near <= self.limits[0]]
            parents, options, sums = parents[fits], options[fits], sums[fits]
            reach = np.stack(
                [_reach(self.most[i], i - 2, sums, layer, options) for i in (0, 1)], axis=1
            )
            better = (reach[:, 0] > best.first) | (
                (reach[:, 0] == best.first) & (reach[:, 1] > best.second)
            )
            chunks.append(_Labels(parents, options, sums, reach).at(np.flatnonzero(better)))
        return _Labels(
            *(
                np.concatenate([getattr(chunk, name) for chunk in chunks])
                for name in ("parents", "options", "sums", "reach")
            )
        )

    def _undominated(self, labels: _Labels, layer: int) -> np.ndarray:
        """Return a mask [n] of the labels that no other one at the same option dominates.

        If the next layer costs the same behind every option, labels at different options compare.
        """
        one_group = layer + 1 == len(self.costs) or not np.ptp(self.costs[layer + 1], axis=1).any()
        groups = np.zeros(len(labels.options), int) if one_group else labels.options
        costs, sizes = labels.sums[:, :-2], labels.sums[:, -2:]
        order = np.lexsort((*costs.T[::-1], *-sizes.T[::-1], groups))
        mask = np.zeros(len(order), bool)
        if self.subset_sum:
            # Only labels of equal size compare: each with the one before it, which finds equals.
            costs, sizes, groups = costs[order], sizes[order], groups[order]
            beaten = (
                (groups[1:] == groups[:-1])
                & (sizes[1:, 0] == sizes[:-1, 0])
                & np.all(costs[1:] >= costs[:-1], axis=1)
            )
            mask[order[np.concatenate([[True], ~beaten])]] = True
        else:
            # Sorted by both sizes, so that an earlier label is larger: only its costs may be worse.
            rows = np.concatenate([np.zeros((len(costs), 1)), costs], axis=1)[order]
            mask[order[pareto(rows, groups[order])]] = True
        return mask


def _ranked(reach: np.ndarray, step: float) -> np.ndarray:
    """Return the rows [n] in the order in which they are kept: by the most of the first size.

    Among rows whose first sizes are in the same ``step``, those with the most of the second size
    and random ones alternate.
    """
    first = -np.floor(reach[:, 0] / step)
    places = np.empty((2, len(reach)), int)
    tie_breaks = (-reach[:, 1], np.random.default_rng(0).permutation(len(reach)))
    for turn, tie_break in enumerate(tie_breaks):
        places[turn, np.lexsort((tie_break, first))] = 2 * np.arange(len(reach)) + turn
    order: np.ndarray = places.min(axis=0).argsort()
    return order
