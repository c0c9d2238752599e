"""This module says what a solution of the search means for the network: widths, drop and costs.

This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tp_vgg.latency.profile import Staircase
from tp_vgg.network.spec import Spec
from tp_vgg.planning.allocation import PlannedLayer, Prediction
from tp_vgg.planning.drop_margin import drop_interval
from tp_vgg.planning.problem import Problem
from tp_vgg.pruning.ratios import Plan, resolve, resolve_sparsity
from tp_vgg.sensitivity.table import Sensitivity


def planned_layers(
    table: Sensitivity, problem: Problem, choice: Sequence[int]
) -> tuple[PlannedLayer, ...]:
    """Return how far each swept layer is pruned; ``choice``: the option of each row."""
    left = {
        row.name: options[i]
        for row, options, i in zip(problem.spec.rows, problem.options, choice, strict=True)
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
    return layers


def predict(problem: Problem, choice: Sequence[int], n: int) -> Prediction:
    """Return the drop and the costs of a choice; ``n``: images of the sweep."""
    sums = problem.sums(choice)
    drop = problem.curves.drop_of(sums["drop"])
    low, high = drop_interval(drop, n)
    return Prediction(
        drop=drop,
        accuracy=problem.curves.accuracy - drop,
        params=round(sums["params"]),
        macs=round(sums["macs"]),
        params_share=sums["params"] / problem.dense["params"],
        macs_share=sums["macs"] / problem.dense["macs"],
        sparsity=1 - sums["sparsity"] / problem.dense["sparsity"] if "sparsity" in sums else 0.0,
        latency_share=sums["latency"] / problem.dense["latency"] if "latency" in sums else None,
        drop_low=low,
        drop_high=high,
    )


def profile_facts(profile: Staircase, dense_us: float) -> dict[str, Any]:
    """Return the fields of a profile that a plan keeps; ``dense_us``: time of the dense convs."""
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
