"""What a plan predicted beside what came of it (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.latency.table import Latency
from tp_vgg.network.families import spec_from_dict
from tp_vgg.planning.allocation import PlanResult

MODEL_OF = {"structured": "structured_pruned", "unstructured": "unstructured"}


@dataclass(frozen=True)
class PlanOutcome:
    """A plan and the model that was made by it. Drops in percentage points, shares of the dense model's."""

    plan: PlanResult
    split: Literal["val", "test"]
    """Of the sweep, on which both drops are."""
    n: int
    drop: float
    """Realised by the model as pruned (an unstructured one: as saved, after its fine-tuning if it had one)."""
    macs_share: float | None
    params_share: float
    finetuned_drop: float | None
    speedup: tuple[float, float, float] | None
    """Of the folded network on the profile's device, dtype and batch, with its interval; ``None`` where not benchmarked."""

    def to_dict(self) -> dict[str, Any]:
        """The entry in ``metrics.json``."""
        said = self.plan.prediction
        return {
            "kind": self.plan.kind,
            "budget": self.plan.budget,
            "split": self.split,
            "predicted": {
                "drop": said.drop,
                "macs_share": said.macs_share,
                "params_share": said.params_share,
                "latency_share": said.latency_share,
            },
            "realised": {
                "drop": self.drop,
                "n": self.n,
                "finetuned_drop": self.finetuned_drop,
                "macs_share": self.macs_share,
                "params_share": self.params_share,
                "speedup": self.speedup,
            },
        }

    def line(self) -> str:
        """For people."""
        said, kind = self.plan.prediction, self.plan.kind
        asked = ", ".join(f"{name}={value:g}" for name, value in self.plan.budget.items())
        parts = [f"drop {said.drop:+.2f} → {self.drop:+.2f} on {self.split} (n = {self.n})"]
        if self.finetuned_drop is not None:
            parts[0] += f", {self.finetuned_drop:+.2f} after fine-tuning"
        parts.append(f"params {said.params_share:.3f}× → {self.params_share:.3f}×")
        if self.macs_share is not None:
            parts.append(f"MACs {said.macs_share:.3f}× → {self.macs_share:.3f}×")
        if said.latency_share is not None:
            found = (
                "not measured"
                if self.speedup is None
                else "{:.3f}× [{:.3f}, {:.3f}]".format(*_shares(self.speedup))
            )
            parts.append(f"time of the convs {said.latency_share:.3f}× → of the network {found}")
        return f"{kind} plan ({asked}), predicted → realised: {'; '.join(parts)}"


def _shares(speedup: tuple[float, float, float]) -> tuple[float, float, float]:
    value, low, high = speedup
    return 1 / value, 1 / high, 1 / low


def plan_outcomes(
    plans: Mapping[Any, PlanResult], records: Mapping[str, ModelRecord], latency: Latency | None
) -> tuple[PlanOutcome, ...]:
    """For each plan whose model is among ``records`` (the baseline first): made from the same weights, with the plan's widths or zeros."""
    base = next(iter(records.values()))
    found = []
    for kind, model in MODEL_OF.items():
        plan, record = plans.get(kind), records.get(model)
        if (
            plan is None
            or record is None
            or plan.sweep.get("weights") != base.sha256
            or not _made_by(plan, record)
        ):
            continue
        split: Literal["val", "test"] = "test" if plan.sweep.get("split") == "test" else "val"
        dense, pruned = getattr(base, split), getattr(record, split)
        tuned = records.get("structured_finetuned") if kind == "structured" else None
        found.append(
            PlanOutcome(
                plan,
                split,
                pruned.n,
                dense.accuracy - pruned.accuracy,
                record.macs / base.macs if kind == "structured" else None,
                record.params / base.params
                if kind == "structured"
                else record.nonzero / base.nonzero,
                None if tuned is None else dense.accuracy - getattr(tuned, split).accuracy,
                _speedup(plan, record, latency),
            )
        )
    return tuple(found)


def _made_by(plan: PlanResult, record: ModelRecord) -> bool:
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
    about = plan.profile
    if about is None or latency is None or latency.environment.get("device") != about.get("device"):
        return None
    for row in latency.of_model(record.sha256):
        if (row.mode, row.dtype, row.batch_size) == (
            "folded",
            about["dtype"],
            about["batch_size"],
        ) and row.speedup:
            return row.speedup, row.speedup_low or row.speedup, row.speedup_high or row.speedup
    return None
