"""What lies in a run directory, read and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tp_vgg.errors import BadInput
from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.files.fingerprint import file_fingerprint
from tp_vgg.files.read import MAX_JSON, read_json, read_text
from tp_vgg.latency.profile import Staircase
from tp_vgg.latency.table import Latency
from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.planning.allocation import Allocation
from tp_vgg.pruning.criteria import Kind
from tp_vgg.pruning.ratios import MAX_BYTES, plan_files
from tp_vgg.rundir.layout import GIVEN, MODELS, RunDir
from tp_vgg.rundir.settings import Settings
from tp_vgg.sensitivity.table import Sensitivity
from tp_vgg.training.history import Epoch, read_history

HISTORIES = {
    "baseline": "history.csv",
    "unstructured": "unstructured_history.csv",
    "structured_finetuned": "structured_history.csv",
}


def finished_sweep(run: RunDir, kind: Kind) -> dict[str, Any] | None:
    """The record of a finished sweep; ``None`` where there is none, or a damaged one."""
    try:
        record = read_json(sweep_path(run, kind))
        if record is not None:
            Sensitivity.from_dict(record)
    except (BadInput, TypeError, KeyError, ValueError):
        return None
    return record


def _planned(run: RunDir) -> list[str]:
    try:
        data = read_json(plan_path(run)) or {}
    except BadInput:
        return []
    return [str(one.get("command", "")) for one in (data.get("other"), data) if isinstance(one, dict)]


def _history(run: RunDir, name: str) -> tuple[Epoch, ...]:
    if name not in HISTORIES:
        return ()
    try:
        path = (run.root if name == "baseline" else run.work) / HISTORIES[name]
        return read_history(read_text(path, MAX_JSON))
    except (OSError, TypeError, ValueError):
        return ()


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


def expected_spec(settings: Settings) -> VGGSpec:
    """The dense spec that a plan will meet, as far as it can be told without torch: that of the baseline in an
    explicit ``--out``, else the flags'. (A ``--checkpoint`` is read by the stage.)"""
    if settings.out is not None:
        record = RunDir.of(settings).record("baseline")
        if record is not None:
            spec = VGGSpec.from_dict(record.spec)
            settings.check_spec(spec, settings.out)
            return spec
    return settings.flag_spec()


NAMES: dict[Kind, str] = {"structured": "ratios.json", "unstructured": "sparsity.json"}


def plan_path(run: RunDir) -> Path:
    return run.work / "plan.json"


def wrote(run: RunDir, kind: Kind) -> bool:
    """Whether the plan file of the run directory is one that :func:`plan` wrote."""
    path = run.work / NAMES[kind]
    return (
        path.is_file()
        and path.stat().st_size <= MAX_BYTES
        and _digest(path.read_bytes()) in plan_files(run.work).get(kind, ())
    )


def _digest(text: str | bytes) -> str:
    return hashlib.sha256(text if isinstance(text, bytes) else text.encode()).hexdigest()


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.stat().st_size == len(text.encode()) and path.read_bytes() == text.encode()


def read_plans(run: RunDir) -> dict[Kind, Allocation]:
    """What ``plan.json`` (of the tag, or else of the run directory) says was predicted, by kind; nothing where it is damaged."""
    found: dict[Kind, Allocation] = {}
    for path in (run.root / "plan.json", plan_path(run)):
        try:
            data = read_json(path) or {}
        except BadInput:
            continue
        for written in (data.get("other"), data):
            try:
                allocation = Allocation.from_dict(written)  # type: ignore[arg-type]  # what is wrong with it, it says
            except (TypeError, KeyError, ValueError):
                continue
            found[allocation.kind] = allocation
    return found


def _other(run: RunDir, kind: Kind) -> dict[str, Any] | None:
    """The plan of the other kind that ``plan.json`` holds, which is kept."""
    try:
        data = read_json(plan_path(run))
    except BadInput:
        return None
    if data is not None and data.get("kind") == kind:
        data = data.get("other")
    try:
        found = Allocation.from_dict(data)  # type: ignore[arg-type]  # what is wrong with it, it says
    except (TypeError, KeyError, ValueError):
        return None
    return None if data is None or found.kind == kind else {k: data[k] for k in data if k not in ("other", "files")}


def sweep_path(run: RunDir, kind: Kind) -> Path:
    """Where the record of a sweep is, or would be: with the tag, or else in the run directory that it shares."""
    own, shared = (directory / "records" / f"{kind}_sensitivity.json" for directory in (run.work, run.root))
    return shared if shared.is_file() and not own.is_file() else own


def sweep_of(path: Path, record: dict[str, Any], kind: Kind) -> Sensitivity:
    """The sweep that a record is of. Raises :class:`BadInput` for anything else."""
    try:
        if not isinstance(record["weights"], str) or record["data"]["split"] not in ("val", "test"):
            raise ValueError("not what a sweep says of its weights and images")
        table = Sensitivity.from_dict(record)
        if table.kind != kind:
            raise ValueError(f"not a {kind} sweep")
        return table
    except (TypeError, KeyError, ValueError, BadInput):
        raise BadInput(
            f"{path}: not a sweep of this version; delete it and run `python -m tp_vgg sensitivity` again"
        ) from None


def read_profiles(run: RunDir, spec: VGGSpec) -> dict[Path, Staircase]:
    """The run directory's staircase profiles of this very network, by file."""
    files = sorted((run.root / "profiles").glob("*.json")) if (run.root / "profiles").is_dir() else []
    return {path: table for path in files if (table := _staircase(path)) and table.spec == spec.to_dict()}


def _staircase(path: Path) -> Staircase | None:
    try:
        data = read_json(path)
        return None if data is None else Staircase.from_dict(data)
    except (TypeError, KeyError, ValueError, BadInput):
        return None
