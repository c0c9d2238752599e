"""This module compares a plan's prediction with the measured result.

This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.latency.table import Latency
from tp_vgg.network.families import spec_from_dict
from tp_vgg.planning.allocation import PlanResult

MODEL_OF = {"structured": "structured_pruned", "unstructured": "unstructured"}
"""The model that is made by a plan, by the kind of pruning."""


@dataclass(frozen=True)
class PlanOutcome:
    """A plan outcome holds a plan and the measured results of the model that was pruned by it.

    Drops are in percentage points. Shares are fractions of the dense model's costs.
    """

    plan: PlanResult
    split: Literal["val", "test"]
    """The split of the sweep; the predicted and the measured drops are on it."""
    n: int
    """Number of images on which the model was measured."""
    drop: float
    """Drop of the pruned model as the sweep measured: before any fine-tuning, and after a repair
    only if the sweep repaired.

    If the record does not tell that, it is the drop of the saved model: of channels after the
    repair, of zeros after the fine-tuning too."""
    macs_share: float | None
    """``None`` for unstructured pruning."""
    params_share: float
    """Parameters, or parameters that are not zero if unstructured."""
    finetuned_drop: float | None
    """Drop of the fine-tuned model; ``None`` without one."""
    speedup: tuple[float, float, float] | None
    """Speed-up of the network with batch norm folded, and the ends of its 95 % interval.

    On the device and with the dtype and batch size of the plan's profile. ``None`` if that was not
    benchmarked."""
    finetuned: bool = False
    """True if :attr:`drop` was measured after fine-tuning; only for unstructured pruning."""
    repaired_drop: float | None = None
    """Drop after the repair, before any fine-tuning; ``None`` if :attr:`drop` is that already."""
    removed_drop: float | None = None
    """Drop before the repair; ``None`` if :attr:`drop` is that already, or if it is not known."""

    def to_dict(self) -> dict[str, Any]:
        """Return the entry in ``metrics.json``."""
        prediction = self.plan.prediction
        return {
            "kind": self.plan.kind,
            "budget": self.plan.budget,
            "split": self.split,
            "predicted": {
                "drop": prediction.drop,
                "macs_share": prediction.macs_share,
                "params_share": prediction.params_share,
                "latency_share": prediction.latency_share,
            },
            "realised": {
                "drop": self.drop,
                "n": self.n,
                "repaired_drop": self.repaired_drop,
                "removed_drop": self.removed_drop,
                "finetuned_drop": self.finetuned_drop,
                "macs_share": self.macs_share,
                "params_share": self.params_share,
                "speedup": self.speedup,
            },
        }

    def line(self) -> str:
        """Return one line of text that compares the prediction with the result."""
        prediction, kind = self.plan.prediction, self.plan.kind
        budget = ", ".join(f"{name}={value:g}" for name, value in self.plan.budget.items())
        repaired = "" if self.removed_drop is None else " repaired"
        parts = [
            f"drop {prediction.drop:+.2f} → {self.drop:+.2f}{repaired} on {self.split}"
            f" (n = {self.n})"
        ]
        if self.finetuned:
            parts[0] += " after fine-tuning"
        if self.removed_drop is not None:
            parts[0] += f", {self.removed_drop:+.2f} as removed"
        if self.repaired_drop is not None:
            parts[0] += f", {self.repaired_drop:+.2f} repaired"
        if self.finetuned_drop is not None:
            parts[0] += f", {self.finetuned_drop:+.2f} after fine-tuning"
        parts.append(f"params {prediction.params_share:.3f}× → {self.params_share:.3f}×")
        if self.macs_share is not None:
            parts.append(f"MACs {prediction.macs_share:.3f}× → {self.macs_share:.3f}×")
        if prediction.latency_share is not None:
            measured = (
                "not measured"
                if self.speedup is None
                else "{:.3f}× [{:.3f}, {:.3f}]".format(*_shares(self.speedup))
            )
            predicted = f"{prediction.latency_share:.3f}×"
            parts.append(f"time of the convs {predicted} → of the network {measured}")
        return f"{kind} plan ({budget}), predicted → realised: {'; '.join(parts)}"


def _shares(speedup: tuple[float, float, float]) -> tuple[float, float, float]:
    """Convert a speed-up and its interval to shares of the dense model's time."""
    value, low, high = speedup
    return 1 / value, 1 / high, 1 / low


def plan_outcomes(
    plans: Mapping[Any, PlanResult], records: Mapping[str, ModelRecord], latency: Latency | None
) -> tuple[PlanOutcome, ...]:
    """Return the outcome of each plan whose model is among ``records``.

    The model must have been pruned from the baseline of the plan's sweep, and have the plan's
    widths or numbers of zeros. ``plans``: by kind; ``records``: by model, the baseline first.
    """
    base = next(iter(records.values()))
    outcomes = []
    for kind, model in MODEL_OF.items():
        plan, record = plans.get(kind), records.get(model)
        if (
            plan is None
            or record is None
            or plan.sweep.get("weights") != base.sha256
            or not _made_by(plan, record)
        ):
            continue
        outcomes.append(_outcome(plan, base, record, records.get("structured_finetuned"), latency))
    return tuple(outcomes)


def _outcome(
    plan: PlanResult,
    base: ModelRecord,
    record: ModelRecord,
    tuned: ModelRecord | None,
    latency: Latency | None,
) -> PlanOutcome:
    """Return the outcome of ``plan``, by which the model of ``record`` was pruned.

    ``tuned``: the record of the fine-tuned structured model, if there is one.
    """
    split: Literal["val", "test"] = "test" if plan.sweep.get("split") == "test" else "val"
    structured = plan.kind == "structured"
    if not structured:
        tuned = record if record.finetuning.startswith("fine-tuned") else None
    dense, saved, repair = getattr(base, split), getattr(record, split), record.repair
    pruned, repaired, removed = saved, None, None
    if repair is not None and plan.repair != "recalibrate":
        before = repair.removed if split == "test" else repair.removed_val
        after = repair.repaired if split == "test" else repair.repaired_val
        if before is not None and after is not None:
            if plan.repair == "none":
                pruned, repaired = before, dense.accuracy - after.accuracy
            else:
                pruned, removed = after, dense.accuracy - before.accuracy
    as_pruned = repaired is not None or removed is not None or structured
    return PlanOutcome(
        plan,
        split,
        pruned.n,
        dense.accuracy - pruned.accuracy,
        record.macs / base.macs if structured else None,
        record.params / base.params if structured else record.nonzero / base.nonzero,
        dense.accuracy - getattr(tuned, split).accuracy if tuned and as_pruned else None,
        _speedup(plan, record, latency),
        finetuned=tuned is not None and not as_pruned,
        repaired_drop=repaired,
        removed_drop=removed,
    )


def _made_by(plan: PlanResult, record: ModelRecord) -> bool:
    """Return True if the model has the widths, or the numbers of zeros, of the plan."""
    spec = spec_from_dict(record.spec)
    if plan.kind == "structured":
        return all(spec.prunable.get(row.layer) == row.after for row in plan.layers)
    zeros = {
        row.name: round(record.sparsity[row.name] * row.weights)
        for row in spec.rows
        if row.name in record.sparsity
    }
    return all(zeros.get(row.layer) == row.before - row.after for row in plan.layers)


def _speedup(
    plan: PlanResult, record: ModelRecord, latency: Latency | None
) -> tuple[float, float, float] | None:
    """Return the speed-up and its interval from the benchmark row like the plan's profile."""
    profile = plan.profile
    if profile is None or latency is None:
        return None
    if latency.environment.get("device") != profile.get("device"):
        return None
    for row in latency.of_model(record.sha256):
        if (row.mode, row.dtype, row.batch_size) == (
            "folded",
            profile["dtype"],
            profile["batch_size"],
        ) and row.speedup:
            return row.speedup, row.speedup_low or row.speedup, row.speedup_high or row.speedup
    return None
