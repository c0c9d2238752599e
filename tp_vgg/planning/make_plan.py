"""This module finds the best widths or sparsities for a sweep and a budget.

This module does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tp_vgg.errors import BadInput
from tp_vgg.files.checks import MAX_MULTIPLE, mapping, text, type_name, whole_number
from tp_vgg.latency.profile import Staircase
from tp_vgg.planning.allocation import LeastDrop, PlanResult
from tp_vgg.planning.budget import BudgetKind, read_budget
from tp_vgg.planning.constrained_path import (
    CAP,
    NotFound,
    constrained_shortest_path,
)
from tp_vgg.planning.drop_margin import drop_interval, margin
from tp_vgg.planning.largest_path import largest_path
from tp_vgg.planning.multipliers import ChoiceCosts, Solution
from tp_vgg.planning.predict import planned_layers, predict, profile_facts
from tp_vgg.planning.problem import Problem, structured, unstructured
from tp_vgg.sensitivity.table import Sensitivity

GAP = 0.01
"""Largest gap to the best plan, in percentage points, with which the search stops early."""
CAPS = (CAP, 8 * CAP)
"""Labels per layer that the search may keep; the second if the first leaves too large a gap."""
ENOUGH = 5e-5
"""Share of the dense model's MACs by which plans may differ and count as equal: half of the last
digit that is printed. It is not used if all plans can be tried."""


def make_plan(
    table: Sensitivity,
    budget: Mapping[str, float],
    *,
    round_to: int = 8,
    profile: Staircase | None = None,
    sweep: Mapping[str, Any] | None = None,
) -> PlanResult:
    """Find the plan that keeps most MACs among those with the smallest predicted drop.

    First the smallest predicted drop within ``budget`` is found. A drop that is a little larger is
    as good, if the images of the sweep can't tell it from the smallest
    (:func:`~tp_vgg.planning.drop_margin.margin`: its interval includes 0, and it is at most 0.2
    points larger). Of the plans with such a drop, the one that keeps most MACs is taken, and of
    equal ones that with most parameters (:func:`~tp_vgg.planning.largest_path.largest_path`).

    With ``drop`` in the budget, find the smallest network whose predicted drop stays within it. The
    smallest is the one with the least of the first cost named beside ``drop``, or with the fewest
    parameters if there is none.

    ``table``: the sweep.
    ``budget``: any of ``macs``, ``params`` and ``latency`` (fractions of the dense model's cost
    that are kept at most, in (0, 1]), ``drop`` (percentage points) and, for a sweep of sparsities,
    ``sparsity`` (smallest fraction of zeros over the layers that a plan can name). All hold at
    once.
    ``round_to``: widths are multiples of it, or the full width.
    ``profile``: the time of each conv at several widths (``benchmark --profile``), for ``latency``.
    The latency is the sum of these times. They are interpolated between the measured widths and
    constant outside of them. The linear layers' time is not in it.
    ``sweep``: facts about the origin of ``table`` to note in the result.

    Layers that were not swept are left alone, and no layer is pruned above its highest level swept.
    Drops are those before fine-tuning; :class:`~tp_vgg.planning.loss_curves.LossCurves` says how
    those of several layers add up. The search
    (:func:`~tp_vgg.planning.constrained_path.constrained_shortest_path`) is exact over these
    numbers, since the layers form a chain: the cost of a layer depends only on its own width and on
    that of the layer before. The search for the most MACs is exact too if there are at most 200,000
    plans. Otherwise plans whose MACs differ by at most 0.00005 of the dense model's count as equal;
    if the search ends before it proves that much, the result says how many more a plan may keep.

    Raises :class:`BadInput` if the budget is not valid or if no plan from this sweep can meet it;
    its subclass :class:`Undecided` if the search leaves that open. Raises :class:`BadInput` as well
    for ``latency`` without a profile, for a profile of another network or with a sweep of
    sparsities, for a ``round_to`` below 1, for layers that form no chain, and for a layer with
    over 4096 widths to choose from.
    """
    if not isinstance(table, Sensitivity):
        raise BadInput(f"table: must be the result of tp_vgg.sweep, got {type_name(table)}")
    if profile is not None and not isinstance(profile, Staircase):
        raise BadInput(
            f"profile: must be the times of `benchmark --profile`, got {type_name(profile)}; read "
            "them with tp_vgg.latency.profile.Staircase.from_dict(json.loads(text))"
        )
    multiple = whole_number("--round-to", round_to, 1, MAX_MULTIPLE)
    notes = (
        {} if sweep is None else mapping("sweep: must be an object such as {'split': 'val'}", sweep)
    )
    for name in notes:
        text("sweep: the names")(name)
    request = _Request(table, read_budget(budget, table.kind), multiple, profile, notes)
    cheapest = _cheapest(request)
    if cheapest.objective != "drop":
        return _plan_result(request, cheapest, cheapest.solution.choice)
    return _keep_most(request, cheapest)


def check_budget(
    table: Sensitivity,
    budget: Mapping[str, float],
    *,
    round_to: int = 8,
    profile: Staircase | None = None,
) -> None:
    """Raise what :func:`make_plan` raises if it finds no plan; the plan itself is not made."""
    _cheapest(_Request(table, read_budget(budget, table.kind), round_to, profile, {}))


class Undecided(BadInput):
    """An Undecided says that the search found no plan and did not prove that there is none."""


@dataclass(frozen=True)
class _Request:
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
class _Cheapest:
    """A cheapest holds the solution with the least of the objective, and its problem."""

    problem: Problem
    objective: BudgetKind
    bounded: tuple[BudgetKind, ...]
    """The names in the budget that limit a cost."""
    ceilings: tuple[float, ...]
    """The largest sums of these costs."""
    solution: Solution


def _cheapest(request: _Request) -> _Cheapest:
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
    return _Cheapest(problem, objective, tuple(bounded), tuple(ceilings), solution)


def _keep_most(request: _Request, cheapest: _Cheapest) -> PlanResult:
    """Return the plan with most MACs, then parameters, whose drop is within the margin."""
    problem, n = cheapest.problem, request.table.baseline.n
    start = cheapest.solution.choice
    least = predict(problem, start, n)
    most = margin(n)
    loss = problem.curves.loss_within(least.drop + most)
    if math.isinf(loss):  # at chance level a loss may have any size
        loss = 1 + sum(float(costs["drop"].max()) for costs in problem.chain)
    largest = largest_path(
        problem.stack("drop", *cheapest.bounded, "macs", "params"),
        (loss, *cheapest.ceilings),
        start,
        enough=ENOUGH * problem.dense["macs"],
    )
    result = _plan_result(request, cheapest, largest.choice)
    more = max(result.prediction.drop - least.drop, 0.0)
    low, high = drop_interval(more, n)
    return replace(
        result,
        least_drop=LeastDrop(least, more, low, high, most, largest.bound - largest.size),
    )


def _plan_result(request: _Request, cheapest: _Cheapest, choice: Sequence[int]) -> PlanResult:
    table, problem, solution = request.table, cheapest.problem, cheapest.solution
    profile = (
        None
        if request.profile is None
        else profile_facts(request.profile, problem.dense["latency"])
    )
    return PlanResult(
        kind=table.kind,
        budget=request.budget,
        minimised=cheapest.objective,
        round_to=request.round_to,
        importance=table.importance,
        layers=planned_layers(table, problem, choice),
        prediction=predict(problem, choice, table.baseline.n),
        gap=problem.points(solution) if cheapest.objective == "drop" else solution.gap,
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
