"""Several plans for one budget, different from each other, and a uniform one beside them.

This module does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tp_vgg.latency.profile import Staircase
from tp_vgg.planning.allocation import PlanResult
from tp_vgg.planning.budget import read_budget
from tp_vgg.planning.make_plan import plan_of
from tp_vgg.planning.multipliers import SLACK, price
from tp_vgg.planning.plan_request import Cheapest, PlanRequest, cheapest, plan_result
from tp_vgg.planning.problem import Problem
from tp_vgg.sensitivity.table import Sensitivity

BEST, UNIFORM = "best", "uniform"
HELD = 12
"""Options of each layer that are tried for a plan apart from others, its ends among them."""
ROUNDS = 12
"""Most rounds of each search for multipliers."""
_STEP = 0.005
"""Distance between the ratios that are tried for the uniform plan."""


def candidates(
    table: Sensitivity,
    budget: Mapping[str, float],
    count: int,
    *,
    round_to: int = 8,
    profile: Staircase | None = None,
    sweep: Mapping[str, Any] | None = None,
) -> dict[str, PlanResult]:
    """Return up to ``count`` plans for ``budget`` by name, and the uniform one as a control.

    The first is that of :func:`~tp_vgg.planning.make_plan.make_plan`, whose arguments these are.
    Each next one differs from all before in at least a tenth of the channels or weights that either
    of the two removes. It has the smallest predicted drop (or cost, with ``drop`` in the budget)
    that was found, with one layer held at each of :data:`HELD` options in turn and the others
    chosen by Lagrange multipliers. There are fewer if none is found. The uniform plan has the
    smallest ratio, the same for all swept layers, that meets the budget; for a budget of ``drop``,
    the largest. It is missing if there is none, or if it is one of the others.
    """
    request = PlanRequest(
        table, read_budget(budget, table.kind), round_to, profile, dict(sweep or {})
    )
    best = cheapest(request)
    plans = {BEST: plan_of(request, best)}
    while len(plans) < count:
        found = _other(best, [_left(plan) for plan in plans.values()])
        if found is None:
            break
        plans[str(len(plans) + 1)] = _result(request, best, found)
    uniform = _uniform(request, best)
    if uniform is not None:
        control = _result(request, best, uniform)
        if control.file_text not in {plan.file_text for plan in plans.values()}:
            plans[UNIFORM] = control
    return plans


def _result(request: PlanRequest, best: Cheapest, choice: Sequence[int]) -> PlanResult:
    """Return the plan of a choice, whose gap is that to the bound of the cheapest."""
    total = best.problem.sums(choice)[best.objective]
    solution = replace(best.solution, totals=(total, *best.solution.totals[1:]))
    return plan_result(request, replace(best, solution=solution), choice)


def _other(best: Cheapest, taken: Sequence[Mapping[str, int]]) -> Sequence[int] | None:
    """Return the cheapest choice found that is apart from what other plans leave, or ``None``."""
    problem = best.problem
    costs = problem.stack(best.objective, *best.bounded)
    limits = np.asarray(best.ceilings) * (1 + SLACK)
    least, found = math.inf, None
    for place, options in enumerate(problem.options):
        places = np.linspace(0, len(options) - 1, min(HELD, len(options))).round().astype(int)
        for option in places if len(options) > 1 else ():
            held = list(costs)
            held[place] = costs[place][:, :, [option]]
            if place + 1 < len(held):
                held[place + 1] = costs[place + 1][:, [option]]
            solution, _ = price(held, limits, ROUNDS)
            if solution is None or solution.totals[0] >= least:
                continue
            choice = [*solution.choice[:place], int(option), *solution.choice[place + 1 :]]
            if all(_apart(problem, choice, left) for left in taken):
                least, found = solution.totals[0], choice
    return found


def _apart(problem: Problem, choice: Sequence[int], left: Mapping[str, int]) -> bool:
    """Return True if a choice differs from what another plan leaves in a tenth of the removed."""
    difference = removed = other = 0
    for row, options, i in zip(problem.spec.rows, problem.options, choice, strict=True):
        if row.name in left:
            difference += abs(options[i] - left[row.name])
            removed += options[-1] - options[i]
            other += options[-1] - left[row.name]
    return difference > 0 and difference >= max(removed, other) / 10


def _left(plan: PlanResult) -> dict[str, int]:
    return {row.layer: row.after for row in plan.layers}


def _uniform(request: PlanRequest, best: Cheapest) -> Sequence[int] | None:
    """Return the choice of the uniform plan, or ``None`` if no ratio meets the budget."""
    problem, sizes = best.problem, request.table.sizes
    highest = min(levels[-1] for levels in problem.curves.levels.values())
    found = None
    for ratio in np.arange(0, highest + _STEP / 2, _STEP):
        choice = [
            _option(options, sizes[row.name], float(ratio)) if row.name in problem.curves.levels
            else 0
            for row, options in zip(problem.spec.rows, problem.options, strict=True)
        ]  # fmt: skip
        sums = problem.sums(choice)
        meets = all(
            sums[name] <= ceiling for name, ceiling in zip(best.bounded, best.ceilings, strict=True)
        )
        if meets and best.objective == "drop":
            return choice
        if meets:
            found = choice
    return found


def _option(options: Sequence[int], size: int, ratio: float) -> int:
    """Return the index of the fewest that may be left if at most ``ratio`` is removed."""
    left = size - int(ratio * size + 0.5)
    return next(place for place, option in enumerate(options) if option >= left)
