"""What `plan` chose and predicted: plan.json, and the plan file that goes with it (no torch)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tp_vgg.files.schema import typed
from tp_vgg.planning.budget import BudgetKind
from tp_vgg.pruning.criteria import Kind

PLAN = "tp_vgg/plan/1"
"""Format of ``plan.json``."""


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
class PlanResult:
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
    def from_dict(cls, data: Mapping[str, Any]) -> PlanResult:
        """The inverse of :meth:`to_dict`. Raises ``TypeError``, ``KeyError`` or ``ValueError`` for anything else."""
        if data["format"] != PLAN:
            raise ValueError("not a plan of this version")
        found = typed(cls, data, more=True)
        if not all(0 <= row.ratio < 1 and 0 < row.after <= row.before for row in found.layers):
            raise ValueError("not what a plan says of layers")
        if len(found.ratios) != len(found.layers) or found.round_to < 1:
            raise ValueError("a layer named twice")
        if found.profile is not None and not {"key", "device", "dtype", "batch_size"} <= set(
            found.profile
        ):
            raise KeyError("not what a plan says of its profile")
        return found
