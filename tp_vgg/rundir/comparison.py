"""This module compares the models of a run directory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from tp_vgg.errors import BadInput
from tp_vgg.evaluation.accuracy import Accuracy
from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.evaluation.repaired import RepairRecord
from tp_vgg.latency.table import Latency, LatencyRow
from tp_vgg.pruning.criteria import Kind
from tp_vgg.rundir.contents import RunContents
from tp_vgg.rundir.expected import check_images
from tp_vgg.rundir.layout import MODELS
from tp_vgg.rundir.plan_outcome import PlanOutcome, plan_outcomes
from tp_vgg.rundir.settings import Settings


@dataclass(frozen=True)
class Comparison:
    """A comparison holds the models' records, their benchmark and the outcomes of the plans."""

    records: dict[str, ModelRecord]
    """The record of each model by name, the baseline first."""
    latency: Latency | None = None
    """The run directory's benchmark. Only rows of these very checkpoints count."""
    plan_outcomes: tuple[PlanOutcome, ...] = ()
    """For each plan of the run directory, its prediction and the measured result."""

    def rows(self, name: str) -> tuple[LatencyRow, ...]:
        """Return the benchmark rows of a model's checkpoint; empty without a benchmark of it."""
        return self.latency.of_model(self.records[name].sha256) if self.latency else ()

    def finetuning(self) -> list[str]:
        """Return a line per model whose record says if it was fine-tuned."""
        return [
            f"{name}: {record.finetuning}"
            for name, record in self.records.items()
            if record.finetuning
        ]

    def quoted(self) -> dict[str, LatencyRow]:
        """Return, by model, the one benchmark row that the table shows.

        It is the row of the headline case (:meth:`~tp_vgg.latency.table.Latency.headline`). Models
        without such a row are left out. The result is empty if the first model has none.
        """
        case = self.latency.headline() if self.latency else None
        quoted_rows = {
            name: row
            for name in self.records
            for row in self.rows(name)
            if row.case == case and row.speedup
        }
        return quoted_rows if next(iter(self.records)) in quoted_rows else {}


@dataclass(frozen=True)
class RepairedModel:
    """A repaired model has a test accuracy as removed, one repaired and perhaps one fine-tuned."""

    name: str
    """The model's name; ``structured`` if the record of its fine-tuning is counted to it too."""
    repair: RepairRecord
    finetuned: Accuracy | None
    """``None`` if it was not fine-tuned."""


def repaired_models(records: Mapping[str, ModelRecord]) -> tuple[RepairedModel, ...]:
    """Return the models that were repaired, in the order of ``records``.

    Both records of ``structured`` are one model, if its fine-tuning began from that repair.
    """
    models: dict[str, RepairedModel] = {}
    for name, record in records.items():
        if record.repair is None:
            continue
        tuned = name == MODELS[3] or record.finetuning.startswith("fine-tuned")
        model = RepairedModel(name, record.repair, record.test if tuned else None)
        pruned = models.get(MODELS[2])
        if name == MODELS[3] and pruned is not None and pruned.repair == record.repair:
            models[MODELS[2]] = replace(model, name="structured")
        else:
            models[name] = model
    return tuple(models.values())


def recorded(settings: Settings, contents: RunContents) -> dict[str, ModelRecord]:
    """Return the models of a run directory that the options name.

    These are the models of ``--checkpoint``, if it is given, measured on ``--limit-test`` images;
    without that option, on the most test images that there are. Raises :class:`BadInput` if the
    options name other images than those of all records.
    """
    dense = (settings.checkpoint, settings.normalisation_record())
    limit = settings.limit_test
    records = (limit and contents.models_of(limit, *dense)) or contents.models_of(None, *dense)
    if records:
        check_images(settings, records[MODELS[0]].data, contents.run.root)
    return records


def compared(contents: RunContents, records: dict[str, ModelRecord] | None = None) -> Comparison:
    """Compare the models of a run directory, with its plans and its benchmark.

    ``records``: models to compare instead of the run directory's. Raises :class:`BadInput` if there
    are none yet.
    """
    records = contents.models if records is None else records
    if not records:
        raise _nothing_yet(contents)
    latency = contents.latency
    return Comparison(records, latency, plan_outcomes(contents.plans, records, latency))


def check_anything(contents: RunContents) -> None:
    """Raise :class:`BadInput` if there is nothing to compare yet; no checkpoint is read."""
    if not contents.dense_records:
        raise _nothing_yet(contents)


def swept_only(contents: RunContents) -> Path | None:
    """Return the checkpoint that was swept, if no dense model of the run directory is measured."""
    sweeps = [contents.sweep(kind) for kind in get_args(Kind)] if not contents.dense_records else []
    files = (contents.swept_file(sweep[0]) for sweep in sweeps if sweep is not None)
    return next((path for path in files if path is not None), None)


def _nothing_yet(contents: RunContents) -> BadInput:
    if (swept := swept_only(contents)) is not None:
        path = os.path.relpath(swept)
        return BadInput(
            f"{contents.run.work}: nothing to compare yet, only a sweep;"
            f" give --checkpoint {path} to measure that network"
        )
    return BadInput(
        f"{contents.run.work}: nothing to compare yet;"
        " run `python -m tp_vgg run` or `train` with the same options first"
    )


def metrics(comparison: Comparison) -> dict[str, Any]:
    """Return the content of ``metrics.json`` (schema 1)."""
    first = next(iter(comparison.records.values()))
    models = {}
    for name, record in comparison.records.items():
        drop = dict(zip(("value", "low", "high"), record.drop_against(first), strict=True))
        models[name] = {**record.metrics(), **({} if record is first else {"drop": drop})}
        if comparison.latency is not None and (rows := comparison.rows(name)):
            device = str(comparison.latency.environment["device"])
            models[name]["latency"] = [row.metrics(device) for row in rows]
    outcomes = [outcome.to_dict() for outcome in comparison.plan_outcomes]
    return {
        "schema": 1,
        "environment": first.environment,
        "data": first.data,
        "models": models,
        **({"plans": outcomes} if outcomes else {}),
    }
