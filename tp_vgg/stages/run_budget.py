"""`run` aims at a budget; here it is split by kind of pruning and checked before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tp_vgg.errors import BadInput
from tp_vgg.evaluation.accuracy import Accuracy
from tp_vgg.latency.profile import Staircase
from tp_vgg.network.spec import Spec
from tp_vgg.planning.budget import read_budget
from tp_vgg.planning.make_plan import check_budget
from tp_vgg.planning.plan_request import Undecided
from tp_vgg.pruning.criteria import Kind
from tp_vgg.pruning.ratios import removals
from tp_vgg.sensitivity.table import LEVELS, Point, Sensitivity
from tp_vgg.stages.options import Finetune

BUDGET = {"macs": 0.5}
"""Default budget, also for a kind of pruning that can meet no part of the user's budget."""


@dataclass(frozen=True)
class RunOptions:
    """Run options say what the pipeline aims at and how long it trains."""

    budget: Mapping[str, float] = field(default_factory=lambda: dict(BUDGET))
    """Budget of both plans; ``latency`` applies to channels only, ``sparsity`` to weights only."""
    round_to: int = 8
    """Widths are multiples of it, or the full width."""
    epochs: int | None = None
    """Epochs of the baseline, if it is not trained yet; ``None``: the default."""
    finetune: Finetune = field(default_factory=Finetune)
    """Fine-tuning of both pruned networks."""
    force: bool = False
    """Delete models and plans of other settings instead of moving them to ``replaced/``."""

    def of(self, kind: Kind) -> dict[str, float]:
        """Return the part of the budget that ``kind`` can meet, or :data:`BUDGET` if none.

        Raises :class:`BadInput` if the budget is not valid.
        """
        foreign = "sparsity" if kind == "structured" else "latency"
        part = {name: value for name, value in self.budget.items() if name != foreign}
        return {str(name): value for name, value in read_budget(part or BUDGET, kind).items()}


def check_attainable(
    spec: Spec, kind: Kind, options: RunOptions, profile: Staircase | None = None
) -> None:
    """Raise :class:`BadInput` if the budget can't be met even if pruning cost no accuracy.

    A latency budget is checked only if a ``profile`` is given, a drop budget never.
    """
    perfect = Accuracy(1, 1, 100.0, 0.0, 100.0)
    removed = removals(kind, spec, LEVELS, tuple(spec.prunable))
    points = tuple(
        Point(layer, level, count, **vars(perfect), drop=0.0, drop_low=0.0, drop_high=0.0, redone=0)
        for layer, counts in removed.items()
        for level, count in zip(LEVELS, counts, strict=True)
    )
    table = Sensitivity("", kind, "l1", "fp32", spec.to_dict(), perfect, points)
    unchecked = ("drop",) if profile else ("drop", "latency")
    budget = {name: value for name, value in options.of(kind).items() if name not in unchecked}
    try:
        if budget:
            check_budget(table, budget, round_to=options.round_to, profile=profile)
    except Undecided:
        return
    except BadInput:
        budget_text = ", ".join(f"{name}={value:g}" for name, value in budget.items())
        advice = "a smaller sparsity" if "sparsity" in budget else "a larger budget"
        if kind == "structured":
            advice += ", or a smaller --round-to"
        raise BadInput(
            f"--budget {budget_text}: {kind} pruning would have to remove more than"
            f" {LEVELS[-1]:g} of a layer, which is as far as `run` sweeps; give {advice}"
        ) from None
