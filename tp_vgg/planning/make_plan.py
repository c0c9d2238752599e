"""This module finds the best widths or sparsities for a sweep and a budget.

This module does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tp_vgg.errors import BadInput
from tp_vgg.files.checks import MAX_MULTIPLE, mapping, text, type_name, whole_number
from tp_vgg.latency.profile import Staircase
from tp_vgg.planning.allocation import LeastDrop, PlanResult
from tp_vgg.planning.budget import read_budget
from tp_vgg.planning.drop_margin import drop_interval, margin
from tp_vgg.planning.largest_path import largest_path
from tp_vgg.planning.plan_request import Cheapest, PlanRequest, cheapest, plan_result
from tp_vgg.planning.predict import predict
from tp_vgg.sensitivity.table import Sensitivity

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
    request = PlanRequest(table, read_budget(budget, table.kind), multiple, profile, notes)
    return plan_of(request, cheapest(request))


def check_budget(
    table: Sensitivity,
    budget: Mapping[str, float],
    *,
    round_to: int = 8,
    profile: Staircase | None = None,
) -> None:
    """Raise what :func:`make_plan` raises if it finds no plan; the plan itself is not made."""
    cheapest(PlanRequest(table, read_budget(budget, table.kind), round_to, profile, {}))


def plan_of(request: PlanRequest, best: Cheapest) -> PlanResult:
    """Return the plan that :func:`make_plan` takes; ``best`` is the cheapest of the request."""
    if best.objective != "drop":
        return plan_result(request, best, best.solution.choice)
    return _keep_most(request, best)


def _keep_most(request: PlanRequest, best: Cheapest) -> PlanResult:
    """Return the plan with most MACs, then parameters, whose drop is within the margin."""
    problem, n = best.problem, request.table.baseline.n
    start = best.solution.choice
    least = predict(problem, start, n)
    most = margin(n)
    loss = problem.curves.loss_within(least.drop + most)
    if math.isinf(loss):  # at chance level a loss may have any size
        loss = 1 + sum(float(costs["drop"].max()) for costs in problem.chain)
    largest = largest_path(
        problem.stack("drop", *best.bounded, "macs", "params"),
        (loss, *best.ceilings),
        start,
        enough=ENOUGH * problem.dense["macs"],
    )
    result = plan_result(request, best, largest.choice)
    more = max(result.prediction.drop - least.drop, 0.0)
    low, high = drop_interval(more, n)
    return replace(
        result,
        least_drop=LeastDrop(least, more, low, high, most, largest.bound - largest.size),
    )
