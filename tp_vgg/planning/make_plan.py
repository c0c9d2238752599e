"""This module finds the best widths or sparsities for a sweep and a budget.

This module does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tp_vgg.errors import BadInput
from tp_vgg.files.checks import plain_number, type_name, whole_number
from tp_vgg.latency.profile import Staircase
from tp_vgg.network.spec import Spec
from tp_vgg.planning.allocation import PlannedLayer, PlanResult, Prediction
from tp_vgg.planning.budget import BudgetKind, read_budget
from tp_vgg.planning.constrained_path import (
    CAP,
    ChoiceCosts,
    NotFound,
    Solution,
    constrained_shortest_path,
)
from tp_vgg.planning.problem import Problem, structured, unstructured
from tp_vgg.pruning.ratios import Plan, resolve, resolve_sparsity
from tp_vgg.sensitivity.table import Sensitivity

GAP = 0.01
"""Largest gap to the best plan, in percentage points, with which the search stops early."""
CAPS = (CAP, 8 * CAP)
"""Labels per layer that the search may keep; the second if the first leaves too large a gap."""


def make_plan(
    table: Sensitivity,
    budget: Mapping[str, float],
    *,
    round_to: int = 8,
    profile: Staircase | None = None,
    sweep: Mapping[str, Any] | None = None,
) -> PlanResult:
    """Find the plan with the smallest predicted drop within ``budget``.

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
    that of the layer before.

    Raises :class:`BadInput` if the budget is not valid or if no plan from this sweep can meet it;
    its subclass :class:`Undecided` if the search leaves that open. Raises :class:`BadInput` as well
    for ``latency`` without a profile, for a profile of another network or with a sweep of
    sparsities, for a ``round_to`` below 1, for layers that form no chain, and for a layer with
    over 4096 widths to choose from.
    """
    if not isinstance(table, Sensitivity):
        raise BadInput(f"table: must be the result of tp_vgg.sweep, got {type_name(table)}")
    round_to = plain_number(round_to)
    if type(round_to) is not int:
        whole_number("--round-to", round_to, 1)
    limits = read_budget(budget, table.kind)
    request = _Request(table, limits, round_to, profile, dict(sweep or {}))
    request.check()
    problem = (
        structured(table, round_to, profile) if table.kind == "structured" else unstructured(table)
    )
    costs = [name for name in limits if name != "drop"]
    objective = "drop" if "drop" not in limits else costs[0] if costs else "params"
    bounded = [name for name in limits if math.isfinite(problem.limit(name, limits[name]))]
    choice_costs = [
        np.stack([costs_of[name] for name in (objective, *bounded)]) for costs_of in problem.chain
    ]
    ceilings = [problem.limit(name, limits[name]) for name in bounded]
    try:
        solution = _search(choice_costs, ceilings, problem, objective)
    except NotFound:
        raise Undecided(
            f"--budget: found no plan that meets {_budget_text(limits)} at once,"
            " though there may be one; loosen one"
        ) from None
    if solution is None:
        raise BadInput(_unreachable(problem, bounded, limits))
    return _plan_result(request, problem, solution, objective)


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


def _plan_result(
    request: _Request, problem: Problem, solution: Solution, objective: BudgetKind
) -> PlanResult:
    table = request.table
    left = {
        row.name: options[i]
        for row, options, i in zip(problem.spec.rows, problem.options, solution.choice, strict=True)
    }
    full = table.sizes
    layers = tuple(
        PlannedLayer(
            layer,
            _shortest_ratio(full[layer] - left[layer], full[layer]),
            full[layer],
            left[layer],
            float(problem.curves.drop(layer, 1 - left[layer] / full[layer])),
        )
        for layer in table.layers
    )
    _check_resolves(layers, problem.spec, table)
    profile = (
        None
        if request.profile is None
        else _profile_facts(request.profile, problem.dense["latency"])
    )
    return PlanResult(
        kind=table.kind,
        budget=request.budget,
        minimised=objective,
        round_to=request.round_to,
        importance=table.importance,
        layers=layers,
        prediction=_prediction(problem, solution),
        gap=problem.points(solution) if objective == "drop" else solution.gap,
        recalibrated=table.recalibrated,
        sweep={
            "key": table.key,
            "n": table.baseline.n,
            "accuracy": table.baseline.accuracy,
            **request.sweep,
        },
        profile=profile,
    )


def _prediction(problem: Problem, solution: Solution) -> Prediction:
    sums = problem.sums(solution.choice)
    drop = problem.curves.drop_of(sums["drop"])
    return Prediction(
        drop=drop,
        accuracy=problem.curves.accuracy - drop,
        params=round(sums["params"]),
        macs=round(sums["macs"]),
        params_share=sums["params"] / problem.dense["params"],
        macs_share=sums["macs"] / problem.dense["macs"],
        sparsity=1 - sums["sparsity"] / problem.dense["sparsity"] if "sparsity" in sums else 0.0,
        latency_share=sums["latency"] / problem.dense["latency"] if "latency" in sums else None,
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


def _profile_facts(profile: Staircase, dense_us: float) -> dict[str, Any]:
    return {
        "key": profile.key,
        "device": profile.environment["device"],
        "dtype": profile.dtype,
        "batch_size": profile.batch_size,
        "dense_us": dense_us,
    }


def _shortest_ratio(removed: int, size: int) -> float:
    """Return the shortest decimal whose product with ``size`` rounds to ``removed``.

    The product is within 0.49 of it, so that every rule of rounding agrees.
    """
    for digits in range(1, 18):
        ratio = round(removed / size, digits)
        if abs(ratio * size - removed) < 0.49 and ratio < 1:
            return ratio
    return removed / size


def _check_resolves(layers: Sequence[PlannedLayer], spec: Spec, table: Sensitivity) -> None:
    """Assert that the ratios, resolved as pruning does it, give the planned counts."""
    plan = Plan.of({row.layer: row.ratio for row in layers}, "plan")
    if table.kind == "structured":
        left: Mapping[str, int] = resolve(plan, spec).prunable
    else:
        zeroed, full = resolve_sparsity(plan, spec), table.sizes
        left = {layer: full[layer] - zeros for layer, zeros in zeroed.items()}
    assert all(left[row.layer] == row.after for row in layers), (left, layers)


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
