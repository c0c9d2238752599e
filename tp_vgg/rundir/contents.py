"""What lies in a run directory, read and checked (no torch).

A damaged record refuses its command; what is an extra (a plan, a benchmark, a profile, a history) is left out where it is damaged.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tp_vgg.errors import BadInput
from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.files.fingerprint import file_fingerprint
from tp_vgg.files.read import MAX_JSON, read_json, read_text
from tp_vgg.files.schema import read_table, table_of
from tp_vgg.latency.profile import Staircase
from tp_vgg.latency.table import Latency
from tp_vgg.network.families import spec_from_dict
from tp_vgg.network.spec import Spec
from tp_vgg.planning.allocation import PlanResult
from tp_vgg.pruning.criteria import Kind
from tp_vgg.pruning.ratios import MAX_BYTES, plan_files
from tp_vgg.rundir.layout import GIVEN, MODELS, PLANS, RunDir
from tp_vgg.rundir.settings import Settings
from tp_vgg.sensitivity.table import Sensitivity
from tp_vgg.training.history import Epoch, read_history

log = logging.getLogger(__name__)

T = TypeVar("T")


class RunContents:
    """The files of one run directory.

    A stage makes one and passes it on. A record, sweep, plan or benchmark is read once, and a checkpoint hashed once; again only after it
    has changed.
    """

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self._kept: dict[tuple[object, ...], Any] = {}
        self._said: set[str] = set()

    @classmethod
    def of(cls, settings: Settings) -> RunContents:
        """Of the run directory that the settings mean."""
        return cls(RunDir.of(settings))

    def sha256(self, path: Path) -> str:
        """Of the file's bytes."""
        digest = self._once("sha256", path, file_fingerprint)
        if digest is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return digest

    def record(self, model: str) -> ModelRecord | None:
        """The record of a finished stage; ``None`` where it has not run. Raises :class:`BadInput` for a damaged one."""
        return self._once("record", self.run.record_path(model), _record)

    @property
    def models(self) -> dict[str, ModelRecord]:
        """The records that can stand in one table, the baseline first: of the files as they are, of one baseline, on the same images. What
        is left out is logged, once. Empty where there is no baseline."""
        found = {name: record for name in MODELS[1:] if (record := self.record(name)) is not None}
        dense = {
            record.sha256: record
            for name in (GIVEN, MODELS[0])
            if (record := self.record(name)) is not None
        }
        if not dense:
            return {}
        used = [record.baseline for record in found.values() if record.baseline in dense]
        baseline = dense[used[-1]] if used else list(dense.values())[-1]
        records = {MODELS[0]: baseline, **found}
        faults = {name: fault for name in records if (fault := self._fault(name, records))}
        for name, fault in faults.items():
            self._say(f"{name} {fault}: left out; run its stage again")
        return (
            {}
            if MODELS[0] in faults
            else {name: record for name, record in records.items() if name not in faults}
        )

    def _fault(self, name: str, records: Mapping[str, ModelRecord]) -> str:
        record, baseline = records[name], records[MODELS[0]]
        path = self.run.root / record.checkpoint
        if not path.is_file() or self.sha256(path) != record.sha256:
            return f"has no file, or another one than was measured ({path})"
        if record is baseline:
            return ""
        if (
            spec_from_dict(record.spec).prunable.keys()
            != spec_from_dict(baseline.spec).prunable.keys()
        ):
            return "is of another architecture than the baseline"
        if record.baseline != baseline.sha256:
            return "was pruned from another baseline"
        if record.data != baseline.data:
            return "was measured on other images than the baseline"
        pruned = records.get("structured_pruned")
        if name == "structured_finetuned" and pruned is not None and pruned.key != record.key:
            return "was made with other settings than structured_pruned"
        return ""

    @property
    def latency(self) -> Latency | None:
        """The benchmark; ``None`` where there is none, and with a note for a damaged one."""
        path = self.run.latency
        try:
            found, there = self._once(
                "latency", path, lambda path: (read_table(path, Latency), True)
            ) or (None, False)
        except BadInput:
            found, there = None, True
        if found is None and there:
            self._say(
                f"{path}: not a benchmark of this version: left out; run `python -m tp_vgg benchmark` again"
            )
        return found

    def sweep_path(self, kind: Kind) -> Path:
        """Where the record of a sweep is, or would be: with the tag, or else in the run directory that it shares."""
        work, root = (
            directory / "records" / f"{kind}_sensitivity.json"
            for directory in (self.run.work, self.run.root)
        )
        return root if root.is_file() and not work.is_file() else work

    def sweep(self, kind: Kind) -> tuple[dict[str, Any], Sensitivity] | None:
        """The record of a finished sweep, and the table in it; ``None`` where there is none, or a damaged one."""
        try:
            return self._once("sweep", self.sweep_path(kind), _sweep)
        except BadInput:
            return None

    @property
    def plans(self) -> dict[Kind, PlanResult]:
        """What ``plan.json`` (of the tag, or else of the run directory) says was predicted, by kind."""
        parts = [
            part
            for path in (self.run.root / "plan.json", self.run.plan)
            for part in self._plan_parts(path)
        ]
        return {
            plan.kind: plan for part in parts if (plan := table_of(PlanResult, part)) is not None
        }

    def other_plan(self, kind: Kind) -> dict[str, Any] | None:
        """The plan of the other kind in ``plan.json``, as it stands there."""
        for part in self._plan_parts(self.run.plan):
            plan = table_of(PlanResult, part)
            if plan is not None and plan.kind != kind:
                return {name: part[name] for name in part if name not in ("other", "files")}
        return None

    def plan_commands(self) -> list[str]:
        """The command lines that made the plans."""
        return [str(part.get("command", "")) for part in self._plan_parts(self.run.plan)]

    def wrote(self, kind: Kind) -> bool:
        """Whether the plan file of the run directory is one that `plan` wrote."""
        path = self.run.work / PLANS[kind]
        return (
            path.is_file()
            and path.stat().st_size <= MAX_BYTES
            and self.sha256(path) in plan_files(self.run.work).get(kind, ())
        )

    def profiles(self, spec: Spec) -> dict[Path, Staircase]:
        """The staircase profiles of this very network, by file."""
        folder = self.run.root / "profiles"
        files = sorted(folder.glob("*.json")) if folder.is_dir() else []
        return {
            path: table
            for path in files
            if (table := read_table(path, Staircase)) and table.spec == spec.to_dict()
        }

    def history(self, model: str) -> tuple[Epoch, ...]:
        """The epochs in which a model was trained; none where there is no history of it."""
        path = self.run.history(model)
        try:
            return () if path is None else read_history(read_text(path, MAX_JSON))
        except (OSError, TypeError, ValueError):
            return ()

    def _plan_parts(self, path: Path) -> list[dict[str, Any]]:
        try:
            return self._once("plan", path, _plan_parts) or []
        except BadInput:
            return []

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            log.info(text)

    def _once(self, purpose: str, path: Path, read: Callable[[Path], T | None]) -> T | None:
        """What ``read`` makes of a file; ``None`` where there is none. Raises :class:`BadInput` where something else is in its place."""
        try:
            there = path.stat()
        except FileNotFoundError:
            return None
        except OSError:
            raise BadInput(f"{path}: can't be read; move it away, or run its stage again") from None
        key = (purpose, there.st_dev, there.st_ino, there.st_mtime_ns, there.st_size)
        if key not in self._kept:
            self._kept[key] = read(path)
        found: T | None = self._kept[key]
        return found


def expected_spec(settings: Settings) -> Spec:
    """The dense spec that a plan will meet, as far as it can be told without torch: that of the baseline in an
    explicit ``--out``, else the flags'. (A ``--checkpoint`` is read by the stage.)"""
    if settings.out is not None:
        record = RunContents.of(settings).record("baseline")
        if record is not None:
            spec = spec_from_dict(record.spec)
            settings.check_spec(spec, settings.out)
            return spec
    return settings.flag_spec()


def sweep_table(path: Path, record: dict[str, Any], kind: Kind) -> Sensitivity:
    """The table in a sweep's record. Raises :class:`BadInput` for anything else."""
    table, data = table_of(Sensitivity, record), record.get("data")
    split = data.get("split") if isinstance(data, dict) else None
    if (
        table is None
        or table.kind != kind
        or not isinstance(record.get("weights"), str)
        or split not in ("val", "test")
    ):
        raise BadInput(
            f"{path}: not a sweep of this version; delete it and run `python -m tp_vgg sensitivity` again"
        )
    return table


def _record(path: Path) -> ModelRecord:
    record = table_of(ModelRecord, read_json(path))
    if record is None:
        raise BadInput(f"{path}: not a record of this version; delete it and run its stage again")
    return record


def _sweep(path: Path) -> tuple[dict[str, Any], Sensitivity] | None:
    record = read_json(path)
    table = table_of(Sensitivity, record)
    return None if record is None or table is None else (record, table)


def _plan_parts(path: Path) -> list[dict[str, Any]]:
    """What a ``plan.json`` holds: the plan of the other kind, if any, then its own."""
    data = read_json(path) or {}
    return [part for part in (data.get("other"), data) if isinstance(part, dict)]
