"""This module reads and checks the files of a run directory.

A damaged record stops the command with an error. Damaged extras (plans, benchmarks, profiles,
histories) are left out.

This module does not import torch.
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
from tp_vgg.network.spec import Spec
from tp_vgg.planning.allocation import PlanResult
from tp_vgg.pruning.criteria import Kind
from tp_vgg.pruning.ratios import MAX_BYTES, plan_files
from tp_vgg.rundir.layout import MODELS, PLANS, RunDir
from tp_vgg.rundir.same_table import comparable_models
from tp_vgg.rundir.settings import Settings
from tp_vgg.sensitivity.table import Sensitivity
from tp_vgg.training.history import Epoch, read_history

log = logging.getLogger(__name__)

T = TypeVar("T")


class RunContents:
    """The contents are the files of one run directory, as read and checked.

    A stage makes one object and passes it on. Each record, sweep, plan and benchmark is read only
    once, and each checkpoint is hashed only once, unless the file changes.
    """

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self._cache: dict[tuple[object, ...], Any] = {}
        self._logged: set[str] = set()
        self.left_out: dict[str, str] = {}
        """By model, the reason why :meth:`models_of` left it out."""

    @classmethod
    def of(cls, settings: Settings) -> RunContents:
        """Make the contents of the run directory that the settings select."""
        return cls(RunDir.of(settings))

    def sha256(self, path: Path) -> str:
        """Return the SHA-256 (hex) of a file; raise ``FileNotFoundError`` if there is none."""
        digest = self._once("sha256", path, file_fingerprint)
        if digest is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return digest

    def record(self, model: str) -> ModelRecord | None:
        """Return the record of a model, or ``None`` if its stage has not finished.

        Raises :class:`BadInput` for a damaged record.
        """
        return self._once("record", self.run.record_path(model), _record)

    @property
    def dense_records(self) -> list[ModelRecord]:
        """Return the records of all dense models, the run directory's own one first.

        Raises :class:`BadInput` for a damaged record.
        """
        read = (self._once("record", path, _record) for path in self.run.dense_record_paths())
        return [record for record in read if record is not None]

    @property
    def models(self) -> dict[str, ModelRecord]:
        """Return the records that can stand in one table, by model, the baseline first.

        They describe the checkpoints as they are now, belong to one baseline and were measured on
        the same test images. If there are several such tables, it is the one with the most test
        images. Records that are left out are logged once. The result is empty if there is no
        baseline, or if the baseline itself is left out.
        """
        return self.models_of()

    def models_of(
        self,
        test_images: int | None = None,
        checkpoint: Path | None = None,
        normalisation: Mapping[str, tuple[float, ...]] | None = None,
    ) -> dict[str, ModelRecord]:
        """Return :attr:`models` as measured on that many test images, of that dense checkpoint.

        ``None`` means the most test images, and any dense checkpoint. ``normalisation``: that of
        the checkpoint (:meth:`~tp_vgg.rundir.settings.Settings.normalisation_record`).
        """
        digest = None if checkpoint is None else self.sha256(checkpoint)
        pruned = {name: record for name in MODELS[1:] if (record := self.record(name)) is not None}
        dense = [
            record
            for record in self.dense_records
            if test_images in (None, record.test.n)
            and digest in (None, record.sha256)
            and (digest is None or record.normalisation == (normalisation or {}))
        ]
        if not dense:
            return {}
        records, faults = comparable_models(dense, pruned, self.file_fault, self.run.root)
        self.left_out = {name: fault for name, fault in faults.items() if name != MODELS[0]}
        for name, fault in faults.items():
            self._log_once(f"{name} {fault}")
        return {} if MODELS[0] in faults else records

    def file_fault(self, record: ModelRecord) -> str:
        """Return the reason why a record does not describe a file as it is; empty if it does."""
        path = self.run.root / record.checkpoint
        if not path.is_file() or self.sha256(path) != record.sha256:
            return (
                f"has no file, or another one than was measured ({path}): left out;"
                " run its stage again"
            )
        return ""

    @property
    def latency(self) -> Latency | None:
        """Return the benchmark, or ``None`` if there is none or a damaged one, which is logged."""
        path = self.run.latency
        try:
            table, exists = self._once(
                "latency", path, lambda path: (read_table(path, Latency), True)
            ) or (None, False)
        except BadInput:
            table, exists = None, True
        if table is None and exists:
            self._log_once(
                f"{path}: not a benchmark of this version: left out;"
                " run `python -m tp_vgg benchmark` again"
            )
        return table

    def sweep_path(self, kind: Kind) -> Path:
        """Return the path of a sweep's record: the tag's, or the one shared by all tags.

        The shared one is in ``root``. It is used if it exists and the tag has none of its own.
        """
        work, root = (
            directory / "records" / f"{kind}_sensitivity.json"
            for directory in (self.run.work, self.run.root)
        )
        return root if root.is_file() and not work.is_file() else work

    def sweep(self, kind: Kind) -> tuple[dict[str, Any], Sensitivity] | None:
        """Return the record of a sweep and its table, or ``None`` if it is missing or damaged."""
        try:
            return self._once("sweep", self.sweep_path(kind), _sweep)
        except BadInput:
            return None

    def swept_file(self, record: Mapping[str, Any]) -> Path | None:
        """Return the checkpoint that a sweep's record names; ``None`` for an earlier version's."""
        name = record.get("checkpoint")
        return Path(os.path.normpath(self.run.root.resolve() / name)) if type(name) is str else None

    @property
    def plans(self) -> dict[Kind, PlanResult]:
        """Return the plans in ``plan.json`` with their predictions, by kind.

        For a kind without a plan of the tag, the plan in ``root`` is used.
        """
        return {**self._plans(self.run.root / "plan.json"), **self.own_plans}

    @property
    def own_plans(self) -> dict[Kind, PlanResult]:
        """Return the plans in ``plan.json``, by kind; those in ``root`` do not count for a tag."""
        return self._plans(self.run.plan)

    def other_plan(self, kind: Kind) -> dict[str, Any] | None:
        """Return the plan in ``plan.json`` that is not of ``kind``, as read from JSON.

        ``None`` if there is none. The entries ``other`` and ``files`` are not part of it.
        """
        for part in self._plan_parts(self.run.plan):
            plan = table_of(PlanResult, part)
            if plan is not None and plan.kind != kind:
                return {name: part[name] for name in part if name not in ("other", "files")}
        return None

    def plan_commands(self) -> list[str]:
        """Return the command lines that made the plans; empty texts for plans made from Python."""
        return [str(part.get("command", "")) for part in self._plan_parts(self.run.plan)]

    def wrote(self, kind: Kind, path: Path | None = None) -> bool:
        """Return True if a plan file is one that `plan` wrote for this run directory.

        ``path``: ``None`` means the run directory's own.
        """
        path = path or self.run.work / PLANS[kind]
        return (
            path.is_file()
            and path.stat().st_size <= MAX_BYTES
            and self.sha256(path) in plan_files(self.run.work).get(kind, ())
        )

    def profiles(self, spec: Spec) -> dict[Path, Staircase]:
        """Return the latency profiles of this very network, by file.

        For a tag without a profile of its own, they are those in ``root``.
        """
        for directory in dict.fromkeys((self.run.work, self.run.root)):
            files = sorted((directory / "profiles").glob("*.json"))
            tables = {path: read_table(path, Staircase) for path in files}
            profiles = {
                path: table
                for path, table in tables.items()
                if table is not None and table.spec == spec.to_dict()
            }
            if profiles:
                return profiles
        return {}

    def history(self, model: str) -> tuple[Epoch, ...]:
        """Return the epochs of a model's training; empty if its history is missing or damaged."""
        path = self.run.history(model)
        try:
            return () if path is None else read_history(read_text(path, MAX_JSON))
        except (OSError, TypeError, ValueError):
            return ()

    def _plans(self, path: Path) -> dict[Kind, PlanResult]:
        plans = (table_of(PlanResult, part) for part in self._plan_parts(path))
        return {plan.kind: plan for plan in plans if plan is not None}

    def _plan_parts(self, path: Path) -> list[dict[str, Any]]:
        try:
            return self._once("plan", path, _plan_parts) or []
        except BadInput:
            return []

    def _log_once(self, text: str) -> None:
        if text not in self._logged:
            self._logged.add(text)
            log.info(text)

    def _once(self, purpose: str, path: Path, read: Callable[[Path], T | None]) -> T | None:
        """Return ``read(path)``, from the cache if the file has not changed since.

        ``None`` if there is no file. ``purpose`` names ``read`` in the cache. Raises
        :class:`BadInput` if the path can't be examined.
        """
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
        except OSError:
            raise BadInput(f"{path}: can't be read; move it away, or run its stage again") from None
        key = (purpose, status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
        if key not in self._cache:
            self._cache[key] = read(path)
        value: T | None = self._cache[key]
        return value


def sweep_table(path: Path, record: dict[str, Any], kind: Kind) -> Sensitivity:
    """Return the table in a sweep's record; raise :class:`BadInput` if it is not one of ``kind``.

    ``path``: the record's file, for the message.
    """
    table, data = table_of(Sensitivity, record), record.get("data")
    split = data.get("split") if isinstance(data, dict) else None
    if (
        table is None
        or table.kind != kind
        or not isinstance(record.get("weights"), str)
        or split not in ("val", "test")
    ):
        raise BadInput(
            f"{path}: not a sweep of this version;"
            " delete it and run `python -m tp_vgg sensitivity` again"
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
    """Return the plans in a ``plan.json``: first that of the other kind, if any, then its own."""
    data = read_json(path) or {}
    return [part for part in (data.get("other"), data) if isinstance(part, dict)]
