"""`compare`: one table of all models, and metrics.json, from the stages' records alone."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tp_vgg.errors import BadInput, printable
from tp_vgg.latencies import Latency, LatencyRow
from tp_vgg.records import ModelRecord
from tp_vgg.spec import VGGSpec
from tp_vgg.stages.foreseen import Foreseen, foreseen
from tp_vgg.stages.plan import read_plans
from tp_vgg.stages.settings import GIVEN, MODELS, RunDir, Settings
from tp_vgg.storage import file_fingerprint, read_json, write_json
from tp_vgg.tables import markdown_table, text_table

FORMATS = ("text", "markdown", "json", "csv")


@dataclass(frozen=True)
class Comparison:
    """Records by model, the baseline first; and the run directory's benchmark, of which the rows of these very files count."""

    records: dict[str, ModelRecord]
    latency: Latency | None = None
    foreseen: tuple[Foreseen, ...] = ()
    """What the run directory's plans predicted, beside what came of it."""

    def rows(self, name: str) -> tuple[LatencyRow, ...]:
        return self.latency.of_model(self.records[name].sha256) if self.latency else ()

    def quoted(self) -> dict[str, LatencyRow]:
        """By model, the one row that stands in the table; empty where the models of the table were not timed."""
        cell = self.latency.headline() if self.latency else None
        found = {name: row for name in self.records for row in self.rows(name) if row.cell == cell and row.speedup}
        return found if next(iter(self.records)) in found else {}


def compare(settings: Settings, checkpoints: tuple[Path, ...] = ()) -> Comparison:
    """The records of a run directory, and of ``checkpoints`` measured now on the same data; writes ``metrics.json``.

    Raises :class:`BadInput` where nothing has run yet. A model that does not belong in the table is left out, with a note.
    """
    if settings.checkpoint is not None:
        from tp_vgg.stages.session import load_dense

        settings = settings.for_spec(load_dense(settings, settings.checkpoint).spec)
    run, records = _measured(settings, checkpoints) if checkpoints else (RunDir.of(settings), None)
    found = compared(settings, run, records)
    write_json(run.work / "metrics.json", metrics(found))
    return found


def compared(settings: Settings, run: RunDir, records: dict[str, ModelRecord] | None = None) -> Comparison:
    """What :func:`compare` finds in a run directory, without writing. Raises :class:`BadInput` where nothing has run yet."""
    records = recorded(settings, run) if records is None else records
    if not records:
        raise BadInput(
            f"{run.work}: nothing to compare yet; run `python -m tp_vgg structured` with these options first"
        )
    latency = _latency(settings, run)
    return Comparison(records, latency, foreseen(read_plans(run), records, latency))


def _latency(settings: Settings, run: RunDir) -> Latency | None:
    try:
        data = read_json(run.latency)
        return Latency.from_dict(data) if data is not None else None
    except (TypeError, KeyError, ValueError):
        settings.note(
            f"{run.latency}: not a benchmark of this version: left out; run `python -m tp_vgg benchmark` again"
        )
        return None


def recorded(settings: Settings, run: RunDir) -> dict[str, ModelRecord]:
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
    if VGGSpec.from_dict(record.spec).prunable.keys() != VGGSpec.from_dict(baseline.spec).prunable.keys():
        return "is of another architecture than the baseline"
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
        records = recorded(settings, work.run)
        if records and records[MODELS[0]].data != data_summary(work.data):
            raise BadInput(
                f"{work.run.root}: its models were measured on other images; give the same --dataset and --limit options"
            )
        for path, model in models.items():
            check_classes(model, work.data, path)
            records[str(path)] = work.measured(path)
        return work.run, records


def metrics(found: Comparison) -> dict[str, Any]:
    """The contents of ``metrics.json`` (schema 1)."""
    first = next(iter(found.records.values()))
    models = {}
    for name, record in found.records.items():
        drop = dict(zip(("value", "low", "high"), record.drop_against(first), strict=True))
        models[name] = {**record.metrics(), **({} if record is first else {"drop": drop})}
        if found.latency is not None and (rows := found.rows(name)):
            models[name]["latency"] = [row.metrics(str(found.latency.environment["device"])) for row in rows]
    plans = {"plans": [one.to_dict() for one in found.foreseen]} if found.foreseen else {}
    return {"schema": 1, "environment": first.environment, "data": first.data, "models": models, **plans}


def render_comparison(found: Comparison, form: str = "text") -> str:
    """The comparison in one of ``FORMATS``; ratios and drops are against the first record, the baseline."""
    if form == "json":
        return json.dumps(metrics(found), indent=1, allow_nan=False)
    if form == "csv":
        return _csv(found)
    base = next(iter(found.records.values()))
    quoted = found.quoted()
    header = ["model", f"test accuracy [95 %], n = {base.test.n}", "drop [95 %]", "params", "non-zero", "MACs", "file"]
    if quoted:
        header.append(f"speed-up [95 %], {next(iter(quoted.values())).cell.label}")
    rows = [
        [
            name,
            f"{r.test.accuracy:.2f} % [{r.test.low:.2f}, {r.test.high:.2f}]",
            "" if r is base else "{:+.2f} [{:+.2f}, {:+.2f}]".format(*r.drop_against(base)),
            _with_ratio(r.params, base.params, 1e6, " M"),
            _with_ratio(r.nonzero, base.nonzero, 1e6, " M"),
            _with_ratio(r.macs, base.macs, 1e6, " M"),
            _with_ratio(r.bytes, base.bytes, 1e6, " MB"),
            *([_speedup(quoted.get(name))] if quoted else []),
        ]
        for name, r in found.records.items()
    ]
    table = markdown_table(header, rows) if form == "markdown" else text_table(header, rows)
    return "\n\n".join([table, *(one.line() for one in found.foreseen)])


def _speedup(row: LatencyRow | None) -> str:
    if row is None:
        return "not measured"
    interval = f"{row.speedup:.2f} [{row.speedup_low:.2f}, {row.speedup_high:.2f}]"
    return f"A/A {interval}" if row.verdict == "reference" else f"{interval} {row.verdict}"


def _with_ratio(value: int, base: int, unit: float, name: str) -> str:
    return f"{value / unit:.2f}{name} ({value / base:.3f}×)"


def _csv(found: Comparison) -> str:
    base = next(iter(found.records.values()))
    columns = ["model", "checkpoint", "correct", "n", "accuracy", "low", "high", "drop", "drop_low", "drop_high"]
    counts = ["params", "nonzero", "macs", "bytes"]
    latency = ["mode", "dtype", "batch_size", "median_ms", "speedup", "speedup_low", "speedup_high", "verdict"]
    quoted = found.quoted()
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns + [c for name in counts for c in (name, f"{name}_ratio")] + latency)
    for name, r in found.records.items():
        t = r.test
        row = [
            printable(name),
            printable(r.checkpoint),
            t.correct,
            t.n,
            t.accuracy,
            t.low,
            t.high,
            *r.drop_against(base),
        ]
        for count in counts:
            row += [getattr(r, count), getattr(r, count) / getattr(base, count)]
        writer.writerow(row + [getattr(quoted[name], c) if name in quoted else "" for c in latency])
    return out.getvalue().rstrip("\n")
