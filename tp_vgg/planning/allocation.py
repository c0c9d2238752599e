"""This module holds the result of `plan`: plan.json and the plan file beside it.

This module does not import torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tp_vgg.errors import first_of
from tp_vgg.files.schema import typed
from tp_vgg.planning.budget import BudgetKind
from tp_vgg.pruning.criteria import Kind
from tp_vgg.pruning.repairs import Repair
from tp_vgg.sensitivity.table import with_repair

PLAN = "tp_vgg/plan/1"
"""Format of ``plan.json``; another one is not read."""


@dataclass(frozen=True)
class PlannedLayer:
    """A planned layer says how far the plan prunes one layer."""

    layer: str
    ratio: float
    """Fraction removed (structured) or zeroed (unstructured), as in the plan file."""
    before: int
    """Channels (structured) or weights (unstructured) of the dense layer."""
    after: int
    """Channels, or weights that are not zero, after pruning."""
    drop: float
    """Predicted drop in percentage points if this layer alone is pruned."""


@dataclass(frozen=True)
class Prediction:
    """A prediction says how accurate, large and fast the pruned network will be."""

    drop: float
    """In percentage points, before any fine-tuning, on the images of the sweep."""
    accuracy: float
    """In percent, before any fine-tuning, on the images of the sweep."""
    params: int
    """Parameters that are not zero."""
    macs: int
    """Multiply-accumulates with weights that are not zero, for one image."""
    params_share: float
    """``params`` divided by the dense model's."""
    macs_share: float
    """``macs`` divided by the dense model's."""
    sparsity: float
    """Fraction of zeros in the weights of the layers that a plan can name; 0 if structured."""
    latency_share: float | None = None
    """Sum of the convs' times in the profile divided by the dense model's; ``None`` without one."""
    drop_low: float | None = None
    """Lower end of the drop's narrowest interval; ``None`` in plans of older versions.

    See :func:`~tp_vgg.planning.drop_margin.drop_interval`: it is that of the images alone, and says
    nothing of the error of the prediction."""
    drop_high: float | None = None
    """Upper end of that interval."""

    def __repr__(self) -> str:
        ends = ""
        if self.drop_low is not None and self.drop_high is not None:
            ends = f" [{self.drop_low:.2f}, {self.drop_high:.2f}]"
        latency = "" if self.latency_share is None else f", latency {self.latency_share:.2f}×"
        zeros = f", sparsity {self.sparsity:.2f}" if self.sparsity else ""
        return (
            f"<Prediction: drop {self.drop:.2f}{ends} points, accuracy {self.accuracy:.2f} %, "
            f"params {self.params_share:.2f}×, MACs {self.macs_share:.2f}×{latency}{zeros}>"
        )


@dataclass(frozen=True)
class LeastDrop:
    """A least drop says how the taken plan compares with the smallest predicted drop.

    Points are percentage points of accuracy.
    """

    prediction: Prediction
    """The plan within the budget that predicts the smallest drop."""
    more: float
    """Points by which the taken plan predicts a larger drop."""
    more_low: float
    """Lower end of the narrowest interval of ``more``."""
    more_high: float
    """Upper end of that interval."""
    margin: float
    """Most points more that a plan was allowed, see :func:`~tp_vgg.planning.drop_margin.margin`."""
    macs_gap: int
    """By how many MACs a plan within the margin may be larger; 0 if none is."""


@dataclass(frozen=True)
class RealisedPlan:
    """A realised plan was really pruned, repaired and measured on the images of the sweep.

    Drops are percentage points against the dense model on the same images.
    """

    name: str
    """``best`` predicts the smallest drop, numbers from 2 on are the next ones, ``uniform`` prunes
    every layer alike."""
    ratios: dict[str, float]
    """Ratio or sparsity of each layer."""
    predicted: float
    """The predicted drop."""
    macs_share: float
    """MACs (with weights that are not zero) divided by the dense model's."""
    params_share: float
    """Parameters (that are not zero) divided by the dense model's."""
    drop: float
    """The measured drop."""
    drop_low: float
    """Lower end of its paired 95 % interval."""
    drop_high: float
    """Upper end of that interval."""
    taken: bool
    """Whether this is the plan that was taken."""


@dataclass(frozen=True)
class PlanResult:
    """A plan result holds a plan, its budget and its prediction; ``plan.json`` is its file."""

    kind: Kind
    budget: dict[BudgetKind, float]
    minimised: str
    """``drop``, or the cost that was minimised if the budget limits the drop."""
    round_to: int
    """Widths are multiples of it, or the full width."""
    importance: str
    """The pruning criterion of the sweep."""
    layers: tuple[PlannedLayer, ...]
    """All layers that were swept, in the order of the network."""
    prediction: Prediction
    gap: float
    """By how much the best plan may be below the one found; 0 if the search was exhaustive.

    In the unit of the minimised quantity: percentage points for the drop (below that of
    ``least_drop``), else parameters, MACs, microseconds, or weights that are not zero."""
    repair: Repair = "none"
    """What corrected the networks of the sweep: the prediction is for a model so repaired."""
    sweep: dict[str, Any] = field(default_factory=dict)
    """The sweep behind the plan.

    ``key``, ``weights`` (SHA-256 of the dense checkpoint), ``split``, ``n`` (images) and
    ``accuracy`` of the dense model in percent."""
    profile: dict[str, Any] | None = None
    """The latency profile: ``key``, ``device``, ``dtype``, ``batch_size``, ``dense_us``.

    ``dense_us`` is the sum of the dense convs in microseconds. ``None`` without a profile."""
    least_drop: LeastDrop | None = None
    """The smallest drop that a plan predicts, if ``minimised`` is ``drop``.

    The plan is then the one that keeps most MACs among those whose drop the sweep's images can't
    tell from it. ``None`` in plans of older versions, which took the smallest drop."""

    realised: tuple[RealisedPlan, ...] = ()
    """The plans that were really pruned and measured, this one among them; empty: none was."""
    realise: int = 0
    """How many plans were asked for to be realised."""
    realised_key: str = ""
    """Fingerprint of all that their results depend on, but for the plans themselves."""

    def __repr__(self) -> str:
        budget = ", ".join(f"{name}={value:g}" for name, value in self.budget.items())
        layers = [f"{row.layer} {row.ratio:g}" for row in self.layers if row.ratio]
        return (
            f"<PlanResult: {self.kind}, budget {budget}: {self.prediction!r}; .ratios: "
            f"{first_of(layers) or 'none'}>"
        )

    @property
    def ratios(self) -> dict[str, float]:
        """Return the ratio or sparsity of each layer.

        :func:`tp_vgg.prune_structured` or :func:`tp_vgg.prune_unstructured` takes it.
        """
        return {row.layer: row.ratio for row in self.layers}

    @property
    def file_text(self) -> str:
        """Return the content of the plan file (JSON)."""
        return json.dumps(self.ratios, indent=1) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``plan.json``, in plain types only."""
        return {
            "format": PLAN,
            **asdict(self),
            "layers": [asdict(row) for row in self.layers],
            "realised": [asdict(plan) for plan in self.realised],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PlanResult:
        """Read what :meth:`to_dict` returned; fields may have been added to it.

        Raises ``TypeError``, ``KeyError`` or ``ValueError`` for anything else.
        """
        if data["format"] != PLAN:
            raise ValueError("not a plan of this version")
        result = typed(cls, with_repair(data), more=True)
        if not all(0 <= row.ratio < 1 and 0 < row.after <= row.before for row in result.layers):
            raise ValueError("a layer with a ratio or a count that no plan has")
        if len(result.ratios) != len(result.layers) or result.round_to < 1:
            raise ValueError("a layer named twice, or round_to below 1")
        if result.profile is not None and not {"key", "device", "dtype", "batch_size"} <= set(
            result.profile
        ):
            raise KeyError("a profile without all its fields")
        return result
