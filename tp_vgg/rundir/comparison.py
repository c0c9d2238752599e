"""The models of a run directory side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tp_vgg.errors import BadInput
from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.latency.table import Latency, LatencyRow
from tp_vgg.rundir.contents import RunContents
from tp_vgg.rundir.plan_outcome import PlanOutcome, plan_outcomes


@dataclass(frozen=True)
class Comparison:
    """Records by model, the baseline first; and the run directory's benchmark, of which the rows of these very files count."""

    records: dict[str, ModelRecord]
    latency: Latency | None = None
    plan_outcomes: tuple[PlanOutcome, ...] = ()
    """What the run directory's plans predicted, beside what came of it."""

    def rows(self, name: str) -> tuple[LatencyRow, ...]:
        return self.latency.of_model(self.records[name].sha256) if self.latency else ()

    def quoted(self) -> dict[str, LatencyRow]:
        """By model, the one row that stands in the table; empty where the models of the table were not timed."""
        case = self.latency.headline() if self.latency else None
        found = {
            name: row
            for name in self.records
            for row in self.rows(name)
            if row.case == case and row.speedup
        }
        return found if next(iter(self.records)) in found else {}


def compared(contents: RunContents, records: dict[str, ModelRecord] | None = None) -> Comparison:
    """The models of a run directory, or other ``records``, beside its plans and its benchmark. Raises :class:`BadInput` where nothing has
    run yet."""
    records = contents.models if records is None else records
    if not records:
        raise BadInput(
            f"{contents.run.work}: nothing to compare yet; run `python -m tp_vgg structured` with these options first"
        )
    latency = contents.latency
    return Comparison(records, latency, plan_outcomes(contents.plans, records, latency))


def metrics(found: Comparison) -> dict[str, Any]:
    """The contents of ``metrics.json`` (schema 1)."""
    first = next(iter(found.records.values()))
    models = {}
    for name, record in found.records.items():
        drop = dict(zip(("value", "low", "high"), record.drop_against(first), strict=True))
        models[name] = {**record.metrics(), **({} if record is first else {"drop": drop})}
        if found.latency is not None and (rows := found.rows(name)):
            models[name]["latency"] = [
                row.metrics(str(found.latency.environment["device"])) for row in rows
            ]
    plans = {"plans": [one.to_dict() for one in found.plan_outcomes]} if found.plan_outcomes else {}
    return {
        "schema": 1,
        "environment": first.environment,
        "data": first.data,
        "models": models,
        **plans,
    }
