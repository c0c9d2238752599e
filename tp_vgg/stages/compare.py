"""`compare`: one table of all models, and metrics.json, from the stages' records alone."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tp_vgg.errors import BadInput
from tp_vgg.records import ModelRecord
from tp_vgg.stages.settings import GIVEN, MODELS, RunDir, Settings
from tp_vgg.storage import file_fingerprint, write_json
from tp_vgg.tables import markdown_table, text_table

FORMATS = ("text", "markdown", "json", "csv")


def compare(settings: Settings, checkpoints: tuple[Path, ...] = ()) -> dict[str, ModelRecord]:
    """The records of a run directory, and of ``checkpoints`` measured now on the same data; writes ``metrics.json``.

    Raises :class:`BadInput` where nothing has run yet. A model that does not belong in the table is left out, with a note.
    """
    if settings.checkpoint is not None:
        from tp_vgg.stages.session import load_dense

        settings = settings.for_spec(load_dense(settings, settings.checkpoint).spec)
    if checkpoints:
        run, records = _measured(settings, checkpoints)
    else:
        run = RunDir.of(settings)
        records = _recorded(settings, run)
        if not records:
            raise BadInput(
                f"{run.work}: nothing to compare yet; run `python -m tp_vgg structured` with these options first"
            )
    write_json(run.work / "metrics.json", metrics(records))
    return records


def _recorded(settings: Settings, run: RunDir) -> dict[str, ModelRecord]:
    """The records that can stand in one table: of the files as they are, of one baseline, on the same images."""
    found = {name: record for name in MODELS[1:] if (record := run.record(name)) is not None}
    dense = {record.sha256: record for name in (GIVEN, MODELS[0]) if (record := run.record(name)) is not None}
    if not dense:
        return {}
    used = [record.baseline for record in found.values() if record.baseline in dense]
    baseline = dense[used[-1]] if used else list(dense.values())[-1]
    records = {MODELS[0]: baseline, **found}
    faults = {name: fault for name in records if (fault := _fault(run, name, records))}
    for name, fault in faults.items():
        settings.note(f"{name} {fault}: left out; run its stage again")
    return {} if MODELS[0] in faults else {name: record for name, record in records.items() if name not in faults}


def _fault(run: RunDir, name: str, records: Mapping[str, ModelRecord]) -> str:
    record, baseline = records[name], records[MODELS[0]]
    path = run.root / record.checkpoint
    if not path.is_file() or file_fingerprint(path) != record.sha256:
        return f"has no file, or another one than was measured ({path})"
    if record is baseline:
        return ""
    if record.baseline != baseline.sha256:
        return "was pruned from another baseline"
    if record.data != baseline.data:
        return "was measured on other images than the baseline"
    pruned = records.get("structured_pruned")
    if name == "structured_finetuned" and pruned is not None and pruned.key != record.key:
        return "was made with other settings than structured_pruned"
    return ""


def _measured(settings: Settings, checkpoints: tuple[Path, ...]) -> tuple[RunDir, dict[str, ModelRecord]]:
    from tp_vgg.checkpoint import load
    from tp_vgg.stages.session import check_classes, data_summary, session

    models = {path: load(path) for path in checkpoints}
    with session(settings) as work:
        records = _recorded(settings, work.run)
        if records and records[MODELS[0]].data != data_summary(work.data):
            raise BadInput(
                f"{work.run.root}: its models were measured on other images; give the same --dataset and --limit options"
            )
        for path, model in models.items():
            check_classes(model, work.data, path)
            records[str(path)] = work.measured(path)
        return work.run, records


def metrics(records: Mapping[str, ModelRecord]) -> dict[str, Any]:
    """The contents of ``metrics.json`` (schema 1)."""
    first = next(iter(records.values()))
    return {
        "schema": 1,
        "environment": first.environment,
        "data": first.data,
        "models": {name: record.metrics() for name, record in records.items()},
    }


def render(records: Mapping[str, ModelRecord], form: str = "text") -> str:
    """The comparison in one of ``FORMATS``; ratios and drops are against the first record, the baseline."""
    if form == "json":
        return json.dumps(metrics(records), indent=1, allow_nan=False)
    if form == "csv":
        return _csv(records)
    base = next(iter(records.values()))
    header = ["model", f"test accuracy [95 %], n = {base.test.n}", "drop", "params", "non-zero", "MACs", "file"]
    rows = [
        [
            name,
            f"{r.test.accuracy:.2f} % [{r.test.low:.2f}, {r.test.high:.2f}]",
            "" if r is base else f"{base.test.accuracy - r.test.accuracy:+.2f}",
            _with_ratio(r.params, base.params, 1e6, " M"),
            _with_ratio(r.nonzero, base.nonzero, 1e6, " M"),
            _with_ratio(r.macs, base.macs, 1e6, " M"),
            _with_ratio(r.bytes, base.bytes, 1e6, " MB"),
        ]
        for name, r in records.items()
    ]
    return markdown_table(header, rows) if form == "markdown" else text_table(header, rows)


def _with_ratio(value: int, base: int, unit: float, name: str) -> str:
    return f"{value / unit:.2f}{name} ({value / base:.3f}×)"


def _csv(records: Mapping[str, ModelRecord]) -> str:
    base = next(iter(records.values()))
    columns = ["model", "checkpoint", "correct", "n", "accuracy", "low", "high", "drop"]
    counts = ["params", "nonzero", "macs", "bytes"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns + [c for name in counts for c in (name, f"{name}_ratio")])
    for name, r in records.items():
        t = r.test
        row = [name, r.checkpoint, t.correct, t.n, t.accuracy, t.low, t.high, base.test.accuracy - t.accuracy]
        for count in counts:
            row += [getattr(r, count), getattr(r, count) / getattr(base, count)]
        writer.writerow(row)
    return out.getvalue().rstrip("\n")
