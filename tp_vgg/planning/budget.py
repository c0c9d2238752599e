"""This module checks the budget of a plan."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, get_args

from tp_vgg.errors import BadInput, shown
from tp_vgg.files.checks import mapping, plain_number
from tp_vgg.pruning.criteria import Kind

BudgetKind = Literal["macs", "params", "latency", "drop", "sparsity"]
BUDGETS: tuple[BudgetKind, ...] = get_args(BudgetKind)
"""The names that ``--budget`` knows."""


def read_budget(values: Mapping[str, float], kind: Kind) -> dict[BudgetKind, float]:
    """Check a budget and return it as floats.

    ``macs``, ``params`` and ``latency`` are the fractions of the dense model's cost that are kept
    at most, in (0, 1]. ``drop`` is the largest drop in percentage points, in [0, 100]. ``sparsity``
    is the smallest fraction of zeros, in [0, 1). ``sparsity`` is only for unstructured pruning,
    ``latency`` only for structured. Raises :class:`BadInput` for anything else.
    """
    entries = mapping("--budget: must be an object such as {'macs': 0.5}", values)
    if not entries:
        raise BadInput("--budget: give one, such as macs=0.5")
    checked: dict[BudgetKind, float] = {}
    for name, value in entries.items():
        if not isinstance(name, str) or name not in BUDGETS:
            raise BadInput(f"--budget: {shown(name)} is not one of {', '.join(BUDGETS)}")
        value = plain_number(value)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise BadInput(f"--budget {name}: must be a number, such as {name}=0.5")
        if name == "drop":
            allowed, inside = "from 0 to 100 percentage points", 0 <= value <= 100
        elif name == "sparsity":
            allowed, inside = "at least 0 and below 1, the fraction of zeros", 0 <= value < 1
        else:
            allowed, inside = "above 0 and at most 1, the fraction to keep", 0 < value <= 1
        if not inside:
            raise BadInput(f"--budget {name}={value:g}: must be {allowed}")
        checked[name] = float(value)
    if kind == "structured" and "sparsity" in checked:
        raise BadInput(
            "--budget sparsity: channels are removed, not zeroed;"
            " give macs, params, latency or drop, or --kind unstructured"
        )
    if kind == "unstructured" and "latency" in checked:
        raise BadInput(
            "--budget latency: zeros save no time on dense kernels;"
            " give sparsity, params, macs or drop, or --kind structured"
        )
    return checked
