"""What `plan` chose and predicted: plan.json, and the plan file that goes with it (no torch)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from tp_vgg.errors import BadInput, shown
from tp_vgg.spec import Kind
from tp_vgg.typed import typed

PLAN = "tp_vgg/plan/1"
"""Format of ``plan.json``."""
BudgetKind = Literal["macs", "params", "latency", "drop", "sparsity"]
BUDGETS: tuple[BudgetKind, ...] = get_args(BudgetKind)


def read_budget(values: Mapping[str, float], kind: Kind) -> dict[BudgetKind, float]:
    """Check a budget: ``macs``, ``params`` and ``latency`` are fractions of the dense network's, in (0, 1]; ``drop`` is in percentage points,
    in [0, 100]; ``sparsity`` is the least fraction of zeros, in [0, 1). Raises :class:`BadInput`."""
    if not values:
        raise BadInput("--budget: give one, such as macs=0.5")
    checked: dict[BudgetKind, float] = {}
    for name, value in values.items():
        if name not in BUDGETS:
            raise BadInput(f"--budget: {shown(name)} is not one of {', '.join(BUDGETS)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise BadInput(f"--budget {name}: must be a number, such as {name}=0.5")
        if name == "drop":
            low, high, inside = "0", "100 percentage points", 0 <= value <= 100
        elif name == "sparsity":
            low, high, inside = "0", "1 (not 1 itself), the fraction of zeros", 0 <= value < 1
        else:
            low, high, inside = "0 (not 0 itself)", "1, the fraction to keep", 0 < value <= 1
        if not inside:
            raise BadInput(f"--budget {name}={value:g}: must be from {low} to {high}")
        checked[name] = float(value)
    if kind == "structured" and "sparsity" in checked:
        raise BadInput(
            "--budget sparsity: channels are removed, not zeroed; give macs, params, latency or drop, or --kind unstructured"
        )
    if kind == "unstructured" and "latency" in checked:
        raise BadInput(
            "--budget latency: zeros save no time on dense kernels; give sparsity, params, macs or drop, or --kind structured"
        )
    return checked


@dataclass(frozen=True)
class PlannedLayer:
    """What a plan does to one layer."""

    layer: str
    ratio: float
    """Or sparsity: as the plan file has it."""
    before: int
    """Channels, or weights that are not zero."""
    after: int
    drop: float
    """Predicted with this layer alone pruned, percentage points."""


@dataclass(frozen=True)
class Prediction:
    """What a network is expected to be. Fractions are of the dense network."""

    drop: float
    """Percentage points, before any fine-tuning, on the images of the sweep."""
    accuracy: float
    """Percent, likewise."""
    params: int
    """That are not zero."""
    macs: int
    """With weights that are not zero."""
    params_share: float
    macs_share: float
    sparsity: float
    """Zeros among the weights of the layers that a plan can name."""
    latency_share: float | None = None
    """Of the sum of the convs' times in the profile; ``None`` without one."""


@dataclass(frozen=True)
class Allocation:
    """A plan with its budget and what it is predicted to give: ``plan.json``."""

    kind: Kind
    budget: dict[BudgetKind, float]
    minimised: str
    """``drop``, or the cost that was made smallest under a given drop."""
    round_to: int
    importance: str
    layers: tuple[PlannedLayer, ...]
    """Every layer that was swept, in the order of the network."""
    prediction: Prediction
    gap: float
    """How far the best plan can be below this one, in what was minimised (points; or parameters, MACs, share of the time): 0 where the
    search was exhaustive."""
    recalibrated: bool
    """The sweep gave batch norm new statistics: the prediction is for ``--recalibrate``."""
    sweep: dict[str, Any] = field(default_factory=dict)
    """Whose sensitivities: ``key``, ``weights`` (SHA-256 of the dense checkpoint), ``split``, ``n``, ``accuracy`` of the dense model."""
    profile: dict[str, Any] | None = None
    """Whose latencies: ``key``, ``device``, ``dtype``, ``batch_size``, ``dense_us``."""

    @property
    def ratios(self) -> dict[str, float]:
        """The plan: what :func:`tp_vgg.prune_structured` or :func:`tp_vgg.prune_unstructured` takes."""
        return {row.layer: row.ratio for row in self.layers}

    @property
    def file_text(self) -> str:
        """The plan file, as it is written."""
        return json.dumps(self.ratios, indent=1) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Plain types only."""
        return {"format": PLAN, **asdict(self), "layers": [asdict(row) for row in self.layers]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Allocation:
        """The inverse of :meth:`to_dict`. Raises ``TypeError``, ``KeyError`` or ``ValueError`` for anything else."""
        if data["format"] != PLAN:
            raise ValueError("not a plan of this version")
        found = typed(cls, data, more=True)
        if not all(0 <= row.ratio < 1 and 0 < row.after <= row.before for row in found.layers):
            raise ValueError("not what a plan says of layers")
        if len(found.ratios) != len(found.layers) or found.round_to < 1:
            raise ValueError("a layer named twice")
        if found.profile is not None and not {"key", "device", "dtype", "batch_size"} <= set(found.profile):
            raise KeyError("not what a plan says of its profile")
        return found
