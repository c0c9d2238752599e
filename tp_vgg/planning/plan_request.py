"""A plan's request is turned into a problem here, and the cheapest choice into a plan.

This module does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tp_vgg.errors import BadInput
from tp_vgg.latency.profile import Staircase
from tp_vgg.planning.allocation import PlanResult
from tp_vgg.planning.budget import BudgetKind
from tp_vgg.planning.constrained_path import CAP, NotFound, constrained_shortest_path
from tp_vgg.planning.multipliers import ChoiceCosts, Solution
from tp_vgg.planning.predict import planned_layers, predict, profile_facts
from tp_vgg.planning.problem import Problem, structured, unstructured
from tp_vgg.sensitivity.table import Sensitivity

GAP = 0.01
"""Largest gap to the best plan, in percentage points, with which the search stops early."""
CAPS = (CAP, 8 * CAP)
"""Labels per layer that the search may keep; the second if the first leaves too large a gap."""


class Undecided(BadInput):
    """An Undecided says that the search found no plan and did not prove that there is none."""


@dataclass(frozen=True)
class PlanRequest:
    """A request holds the arguments of :func:`make_plan`."""

    table: Sensitivity
    budget: dict[BudgetKind, float]
    round_to: int
    profile: Staircase | None
    sweep: dict[str, Any]

    def check(self) -> None:
        """Raise :class:`BadInput` if the arguments contradict each other."""
        if "latency" in self.budget and self.profile is None:
            raise BadInput(
                "--budget latency: needs a profile of this network;"
                " run `python -m tp_vgg benchmark --profile` first"
            )
        if self.profile is not None and self.table.kind == "unstructured":
            raise BadInput(
                "--profile: zeros save no time on dense kernels;"
                " leave it out, or plan with --kind structured"
            )
        if self.round_to < 1:
            raise BadInput("--round-to: must be 1 or more")


@dataclass(frozen=True)
class Cheapest:
    """A cheapest holds the solution with the least of the objective, and its problem."""

    problem: Problem
    objective: BudgetKind
    bounded: tuple[BudgetKind, ...]
    """The names in the budget that limit a cost."""
    ceilings: tuple[float, ...]
    """The largest sums of these costs."""
    solution: Solution


def cheapest(request: PlanRequest) -> Cheapest:
    """Find the least of the objective within the budget.

    Raises :class:`BadInput` if there is none, or :class:`Undecided`.
    """
    request.check()
    table, limits = request.table, request.budget
    problem = (
        structured(table, request.round_to, request.profile)
        if table.kind == "structured"
        else unstructured(table)
    )
    costs = [name for name in limits if name != "drop"]
    objective: BudgetKind = "drop" if "drop" not in limits else costs[0] if costs else "params"
    bounded = [name for name in limits if math.isfinite(problem.limit(name, limits[name]))]
    ceilings = [problem.limit(name, limits[name]) for name in bounded]
    try:
        solution = _search(problem.stack(objective, *bounded), ceilings, problem, objective)
    except NotFound:
        raise Undecided(
            f"--budget: found no plan that meets {_budget_text(limits)} at once,"
            " though there may be one; loosen one"
        ) from None
    if solution is None:
        raise BadInput(_unreachable(problem, bounded, limits))
    return Cheapest(problem, objective, tuple(bounded), tuple(ceilings), solution)


def plan_result(request: PlanRequest, best: Cheapest, choice: Sequence[int]) -> PlanResult:
    """Return the plan of a choice, the option of each row; ``best`` has its problem and gap."""
    table, problem, solution = request.table, best.problem, best.solution
    profile = (
        None
        if request.profile is None
        else profile_facts(request.profile, problem.dense["latency"])
    )
    return PlanResult(
        kind=table.kind,
        budget=request.budget,
        minimised=best.objective,
        round_to=request.round_to,
        importance=table.importance,
        layers=planned_layers(table, problem, choice),
        prediction=predict(problem, choice, table.baseline.n),
        gap=problem.points(solution) if best.objective == "drop" else solution.gap,
        repair=table.repair,
        sweep={
            "key": table.key,
            "n": table.baseline.n,
            "accuracy": table.baseline.accuracy,
            **request.sweep,
        },
        profile=profile,
    )


def _search(
    choice_costs: ChoiceCosts, ceilings: list[float], problem: Problem, objective: BudgetKind
) -> Solution | None:
    """Return the best solution within the ceilings, or ``None`` if there is none.

    The search is repeated with more labels (:data:`CAPS`) if it raised :class:`NotFound` or if the
    gap is over :data:`GAP` (for a cost, over a thousandth of it). Raises :class:`NotFound` if the
    last search does.
    """
    solution = None
    for cap in CAPS:
        try:
            solution = constrained_shortest_path(choice_costs, ceilings, cap)
        except NotFound:
            if cap == CAPS[-1]:
                raise
            continue
        if solution is None or (
            problem.points(solution) <= GAP
            if objective == "drop"
            else solution.gap <= 1e-3 * solution.totals[0]
        ):
            break
    return solution


def _unreachable(
    problem: Problem, bounded: list[BudgetKind], limits: Mapping[BudgetKind, float]
) -> str:
    """Return the message that says why no plan meets the budget.

    It names the first limit that no plan meets even by itself, with the best value that can be
    reached; or all limits, if only their combination can't be met.
    """
    for name in bounded:
        least = constrained_shortest_path([costs[name][None] for costs in problem.chain], [])
        assert least is not None
        if least.totals[0] <= problem.limit(name, limits[name]):
            continue
        share = math.ceil(1e4 * least.totals[0] / problem.dense[name]) / 1e4
        reach = f"sparsity={1 - share:.4g}" if name == "sparsity" else f"{name}={share:.4g}"
        finer = "" if "sparsity" in problem.dense else ", or give a smaller --round-to"
        fix = f"sweep higher --levels or more --layers{finer}"
        return f"--budget {name}={limits[name]:g}: what was swept allows {reach} at best; {fix}"
    return f"--budget: no plan meets {_budget_text(limits)} at once; loosen one"


def _budget_text(limits: Mapping[BudgetKind, float]) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in limits.items())
