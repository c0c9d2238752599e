"""make_plan(): sensitivities and a budget in, the best widths (or sparsities) out (no torch)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tp_vgg.errors import BadInput
from tp_vgg.latency.profile import Staircase
from tp_vgg.network.spec import Spec
from tp_vgg.planning.allocation import PlannedLayer, PlanResult, Prediction
from tp_vgg.planning.budget import BudgetKind, read_budget
from tp_vgg.planning.constrained_path import CAP, NotFound, Solution, constrained_shortest_path
from tp_vgg.planning.problem import Problem, structured, unstructured
from tp_vgg.pruning.ratios import Plan, resolve, resolve_sparsity
from tp_vgg.sensitivity.table import Sensitivity

GAP = 0.01
"""Percentage points by which a plan may miss the best one; the search gets more room until it does not."""
ROOMS = (CAP, 8 * CAP)
"""Labels a layer that the search may keep, in turn."""


def make_plan(
    table: Sensitivity,
    budget: Mapping[str, float],
    *,
    round_to: int = 8,
    profile: Staircase | None = None,
    sweep: Mapping[str, Any] | None = None,
) -> PlanResult:
    """The plan with the smallest predicted drop within ``budget``; with ``drop`` in the budget, the smallest network whose predicted drop
    stays within it.

    ``budget``: any of ``macs``, ``params``, ``latency`` (fractions of the dense network to keep, in (0, 1]), ``drop`` (percentage points)
    and, for a table of zeroed weights, ``sparsity`` (fraction of zeros over the layers that a plan can name); all hold at once. Smallest is
    by the first cost named beside ``drop``, or by parameters. ``round_to``: channels stay multiples of it (or all). ``profile``: the time
    of each conv over its widths (``benchmark --profile``), for ``latency``, which is the sum of these times: interpolated between the
    widths measured, and below the smallest held constant. The head's time is not in it. ``sweep``: what to note of the table's origin.

    A layer that was not swept, and every level above the highest swept, is left alone. Drops are those before fine-tuning; how several
    layers add up is said at :class:`~tp_vgg.planning.loss_curves.LossCurves`. The search (:func:`~tp_vgg.planning.constrained_path.constrained_shortest_path`) is exact over these numbers: a
    layer's cost depends on its own and its predecessor's width, so a VGG is a chain.
    Raises :class:`BadInput` for a budget that is none, or that nothing swept can meet, and for a ``profile`` with zeroed weights.
    """
    limits = read_budget(budget, table.kind)
    asked = _Request(table, limits, round_to, profile, dict(sweep or {}))
    asked.check()
    problem = (
        structured(table, round_to, profile) if table.kind == "structured" else unstructured(table)
    )
    costs = [name for name in limits if name != "drop"]
    first = "drop" if "drop" not in limits else costs[0] if costs else "params"
    bounded = [name for name in limits if math.isfinite(problem.limit(name, limits[name]))]
    chain = [np.stack([costs_of[name] for name in (first, *bounded)]) for costs_of in problem.chain]
    ceilings = [problem.limit(name, limits[name]) for name in bounded]
    try:
        found = _search(chain, ceilings, problem, first)
    except NotFound:
        raise Undecided(
            f"--budget: found no plan that meets {_listed(limits)} at once, though there may be one; loosen one"
        ) from None
    if found is None:
        raise BadInput(_unreachable(problem, bounded, limits))
    return _allocation(asked, problem, found, first)


class Undecided(BadInput):
    """The search neither found a plan nor showed that there is none."""


@dataclass(frozen=True)
class _Request:
    """The arguments of :func:`make_plan`."""

    table: Sensitivity
    budget: dict[BudgetKind, float]
    round_to: int
    profile: Staircase | None
    sweep: dict[str, Any]

    def check(self) -> None:
        """Raise :class:`BadInput` for what does not go together."""
        if "latency" in self.budget and self.profile is None:
            raise BadInput(
                "--budget latency: needs a profile of this network; run `python -m tp_vgg benchmark --profile` first"
            )
        if self.profile is not None and self.table.kind == "unstructured":
            raise BadInput(
                "--profile: zeros save no time on dense kernels; leave it out, or plan with --kind structured"
            )
        if self.round_to < 1:
            raise BadInput("--round-to: must be 1 or more")


def _allocation(
    asked: _Request, problem: Problem, found: Solution, first: BudgetKind
) -> PlanResult:
    table = asked.table
    left = {
        row.name: options[i]
        for row, options, i in zip(problem.spec.rows, problem.options, found.choice, strict=True)
    }
    full = table.sizes
    layers = tuple(
        PlannedLayer(
            layer,
            _shortest(full[layer] - left[layer], full[layer]),
            full[layer],
            left[layer],
            float(problem.curves.drop(layer, 1 - left[layer] / full[layer])),
        )
        for layer in table.layers
    )
    _check_resolves(layers, problem.spec, table)
    profile = None if asked.profile is None else _about(asked.profile, problem.dense["latency"])
    return PlanResult(
        kind=table.kind,
        budget=asked.budget,
        minimised=first,
        round_to=asked.round_to,
        importance=table.importance,
        layers=layers,
        prediction=_prediction(problem, found),
        gap=problem.points(found) if first == "drop" else found.gap,
        recalibrated=table.recalibrated,
        sweep={
            "key": table.key,
            "n": table.baseline.n,
            "accuracy": table.baseline.accuracy,
            **asked.sweep,
        },
        profile=profile,
    )


def _prediction(problem: Problem, found: Solution) -> Prediction:
    sums = problem.sums(found.choice)
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
    chain: list[np.ndarray], ceilings: list[float], problem: Problem, first: BudgetKind
) -> Solution | None:
    """The best path; with more room where the gap would be over :data:`GAP` (for costs, a thousandth)."""
    found = None
    for room in ROOMS:
        try:
            found = constrained_shortest_path(chain, ceilings, room)
        except NotFound:
            if room == ROOMS[-1]:
                raise
            continue
        if found is None or (
            problem.points(found) <= GAP if first == "drop" else found.gap <= 1e-3 * found.totals[0]
        ):
            break
    return found


def _about(profile: Staircase, dense_us: float) -> dict[str, Any]:
    return {
        "key": profile.key,
        "device": profile.environment["device"],
        "dtype": profile.dtype,
        "batch_size": profile.batch_size,
        "dense_us": dense_us,
    }


def _shortest(removed: int, size: int) -> float:
    """The shortest decimal whose product with ``size`` rounds to ``removed``, well away from a half."""
    for digits in range(1, 18):
        ratio = round(removed / size, digits)
        if abs(ratio * size - removed) < 0.49 and ratio < 1:
            return ratio
    return removed / size


def _check_resolves(layers: Sequence[PlannedLayer], spec: Spec, table: Sensitivity) -> None:
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
    """Why no plan meets the budgets: the first that none meets by itself, with the least that one can; or all of them together."""
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
    return f"--budget: no plan meets {_listed(limits)} at once; loosen one"


def _listed(limits: Mapping[BudgetKind, float]) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in limits.items())
