"""This module bounds the solutions on a chain of choices with Lagrange multipliers.

This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CUTS = 40
"""Most rounds of the search for multipliers; few problems need twenty."""
BOUNDS = 6
"""Number of multiplier vectors that bound the labels: the best ones found."""
SLACK = 1e-9
"""Relative tolerance: sums that differ by less are equal."""

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


def solution_of(choice_costs: ChoiceCosts, choice: Sequence[int]) -> Solution:
    """Return the solution with these options, without a bound."""
    totals = sum(
        costs[:, i, j] for costs, i, j in zip(choice_costs, (0, *choice), choice, strict=False)
    )
    return Solution(tuple(choice), tuple(np.asarray(totals).tolist()), -np.inf)


@dataclass(frozen=True)
class Tables:
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
    return solution_of(choice_costs, choice)


def price(
    choice_costs: ChoiceCosts, limits: np.ndarray, rounds: int = CUTS
) -> tuple[Solution | None, Tables | None]:
    """Search for multipliers; return the best solution met within the limits, and the tables.

    The tables are those of the :data:`BOUNDS` best multiplier vectors; ``None`` if one of the
    limits can't be met even by itself. The search ends after ``rounds``; any multipliers bound.
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
    for _ in range(rounds):
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
) -> Tables:
    """Build the tables for the ``chosen`` weights.

    ``least``: the cost-to-go of each limited component by itself.
    """
    count = len(limits)
    to_gos = [_to_go(choice_costs, weights) for weights in chosen]
    layers = range(1, len(choice_costs) + 1)
    return Tables(
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
