"""`sensitivity`: how much accuracy each layer costs, at each ratio. Sweep, save the table, draw it."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from tp_vgg.data.datasets import load_data
from tp_vgg.errors import BadInput
from tp_vgg.files.atomic import write_atomic, write_json, write_text
from tp_vgg.files.fingerprint import fingerprint
from tp_vgg.files.journal import Journal
from tp_vgg.files.lock import locked
from tp_vgg.files.read import read_json
from tp_vgg.files.schema import table_of
from tp_vgg.files.torch_archive import read_archive
from tp_vgg.machine.distributed import Ranks
from tp_vgg.network.families import spec_from_dict
from tp_vgg.network.network import Network
from tp_vgg.network.spec import Spec
from tp_vgg.pruning.calibration import calibration_sample
from tp_vgg.pruning.criteria import Kind
from tp_vgg.pruning.ratios import removals
from tp_vgg.pruning.repair import Repair
from tp_vgg.report import figures
from tp_vgg.rundir.contents import RunContents
from tp_vgg.rundir.layout import RunDir, partial_of
from tp_vgg.rundir.settings import Settings
from tp_vgg.sensitivity.question import SweepQuestion
from tp_vgg.sensitivity.resolved import ResolvedSweep
from tp_vgg.sensitivity.sweep import run
from tp_vgg.sensitivity.table import SENSITIVITY, Sensitivity
from tp_vgg.stages.baseline import baseline as baseline_of
from tp_vgg.stages.outputs import keep_figure
from tp_vgg.stages.session import data_summary, load_given, ranked, session, stage

log = logging.getLogger(__name__)


Split = Literal["val", "test"]


@dataclass(frozen=True)
class _Asked:
    """A sweep as one command asks for it."""

    settings: Settings
    question: SweepQuestion
    split: Split

    def named(self, spec: Spec) -> _Asked:
        return replace(self, question=self.question.named(spec))

    def key(self, weights: str, data: str) -> str:
        """Of the question: weights, images, options. Precision comes apart, since the device decides what ``auto`` is."""
        question, settings = self.question, self.settings
        asked: dict[str, Any] = {
            "kind": question.kind,
            "levels": sorted(question.levels),
            "layers": sorted(question.layers or ()),
            "split": self.split,
            "importance": question.importance,
            **_REPAIRED[question.repair],
        }
        limits = [settings.limit_val if self.split == "val" else settings.limit_test]
        if question.repair != "none" or question.needs_gradients:
            limits.append(settings.limit_train)
        seed = question.seed if question.importance == "random" else 0
        return fingerprint(SENSITIVITY, weights, data, asked, limits, seed)

    def journal_key(self, key: str, precision: str) -> str:
        """Of the work on a question: with the precision that ``auto`` came to, and the kind of device, whose sums are its own."""
        return fingerprint(key, precision, self.settings.device.partition(":")[0])


_REPAIRED: dict[Repair, dict[str, Any]] = {"none": {}, "recalibrate": {"recalibrate": True}}
"""What of a key says how the network was repaired."""


def sensitivity(settings: Settings, question: SweepQuestion, split: Split = "val") -> Sensitivity:
    """Sweep every layer; leaves the table as ``.pth``, CSV and record, and its figures. A finished sweep of the same weights, images
    and options is not done again. Under torchrun every process evaluates its share of the images and the first one writes."""
    contents = RunContents.of(settings) if settings.out is not None else None
    given = (
        None if contents and _swept_before(settings, question, contents) else load_given(settings)
    )
    if given is not None:
        question.removed(given.spec)
        settings = settings.for_spec(given.spec)
    with ranked(settings) as (settings, ranks):
        asked = _Asked(settings, question, split)
        with ranks.main_first():
            digest = _data_fingerprint(settings)
            run_dir = RunDir.of(settings, digest)
            if contents is None or contents.run != run_dir:
                contents = RunContents(run_dir)
            done = _finished(asked, contents, digest, ranks)
        return ranks.broadcast(done) or _swept(
            asked, given or load_given(settings), contents, ranks
        )


@stage
def _swept(
    asked: _Asked, given: Network | None, contents: RunContents, ranks: Ranks
) -> Sensitivity:
    settings = asked.settings
    with session(settings, given, ranks, writes=(), contents=contents) as work:
        dense, baseline = baseline_of(work, given)
        asked = asked.named(dense.spec)
        question = asked.question
        question.removed(dense.spec)
        work.accumulate_gradients(dense, question.importance)
        sample = calibration_sample(work.data.train) if question.repair == "recalibrate" else None
        resolved = ResolvedSweep.of(question, dense, sample)
        key = asked.key(baseline.sha256, work.data.fingerprint)
        files = _Files(settings, work.run, question.kind)
        journal = (
            Journal(files.journal, asked.journal_key(key, resolved.precision))
            if ranks.is_main
            else None
        )
        images = work.data.val if asked.split == "val" else work.data.test
        table = run(dense.eval(), images, resolved, key, journal, ranks, quiet=settings.quiet)
        if journal is not None:
            files.replace(
                {
                    **table.to_dict(),
                    "weights": baseline.sha256,
                    "data": {"split": asked.split, **data_summary(work.data)},
                    "environment": baseline.environment,
                    "notes": list(baseline.notes),
                }
            )
            journal.remove()
        return table


def _swept_before(settings: Settings, question: SweepQuestion, contents: RunContents) -> bool:
    """Whether the record in an explicit ``--out`` is of the very ``--checkpoint``, so that its spec stands for the file's and loading that
    can wait. Raises :class:`BadInput` for options that do not fit it."""
    if settings.checkpoint is None:
        return False
    record = read_json(_Files(settings, contents.run, question.kind).record) or {}
    if record.get("weights") != contents.sha256(settings.checkpoint):
        return False
    try:
        spec = spec_from_dict(record["spec"])
    except (KeyError, BadInput):
        return False
    question.removed(spec)
    settings.check_spec(spec, settings.checkpoint)
    return True


class _Files:
    """What a sweep leaves in its run directory. The record comes last: where it is, the others are its own."""

    def __init__(self, settings: Settings, run: RunDir, kind: Kind) -> None:
        self.settings, self.run = settings, run
        name = f"{kind}_sensitivity"
        self.results = run.work / f"{name}_results.pth"
        self.csv = run.work / f"{name}.csv"
        self.record = run.work / "records" / f"{name}.json"
        self.journal = partial_of(self.csv).with_suffix(".jsonl")
        self.figures = {name: figures.sensitivity, f"{name}_cost": figures.sensitivity_cost}

    def replace(self, record: dict[str, Any]) -> None:
        """Write all files, of whatever sweep they were before."""
        self.record.unlink(
            missing_ok=True
        )  # of an older sweep: from here on its files are being written over
        self.write(record)
        write_json(self.record, {**record, "command": self.settings.command})

    def write(self, record: dict[str, Any], *, missing_only: bool = False) -> None:
        """All files that follow from the record."""
        table = Sensitivity.from_dict(record)
        record = {name: value for name, value in record.items() if name != "command"}
        record = json.loads(
            json.dumps(record)
        )  # pickle's bytes tell shared objects from equal ones
        if not (missing_only and _holds(self.results, record)):
            write_atomic(self.results, lambda file: torch.save(record, file))
        if not (
            missing_only and self.csv.is_file() and self.csv.read_bytes() == table.csv().encode()
        ):
            write_text(self.csv, table.csv())
        for figure, draw in self.figures.items():
            if not (missing_only and self.run.plot(figure).is_file()):
                keep_figure(self.settings, self.run, figure, draw(table))


def _holds(path: Path, record: dict[str, Any]) -> bool:
    try:
        return bool(read_archive(path) == record)
    except Exception:  # noqa: BLE001  what a torn or foreign file raises is not documented
        return False


def _finished(
    asked: _Asked, contents: RunContents, digest: str, ranks: Ranks
) -> Sensitivity | None:
    """The table of a sweep that was finished before, if it is of these weights, images (of fingerprint ``digest``) and options."""
    settings = asked.settings
    weights = settings.checkpoint or contents.run.own_baseline(settings)
    files = _Files(settings, contents.run, asked.question.kind)
    record = read_json(files.record)
    table = table_of(Sensitivity, record)
    if (
        record is None
        or table is None
        or weights is None
        or not _answers(table, asked, contents.sha256(weights), digest)
    ):
        return None
    settings.check_spec(spec_from_dict(table.spec), weights)
    log.info(f"{files.record}: these weights, images and options were swept before; nothing to do")
    if ranks.is_main:
        with locked(contents.run.root):
            files.write(record, missing_only=True)
            if Journal.key_of(files.journal) == asked.journal_key(table.key, table.precision):
                files.journal.unlink()  # the sweep died between its record and this
    return table


def _answers(table: Sensitivity, asked: _Asked, weights: str, data: str) -> bool:
    """Whether a table is of the question, the weights and the images (both as fingerprints)."""
    try:
        spec = spec_from_dict(table.spec)
        asked = asked.named(spec)
        question, levels = asked.question, sorted(asked.question.levels)
        removed = removals(question.kind, spec, levels, question.layers)
    except BadInput:
        return False
    wanted = asked.question.precision
    return (
        table.key == asked.key(weights, data)
        and table.removed == removed
        and all([point.ratio for point in table.of_layer(layer)] == levels for layer in removed)
        and (table.precision == wanted or (wanted == "auto" and table.precision != "bf16"))
    )


def _data_fingerprint(settings: Settings) -> str:
    if settings.images.local:
        return settings.folder_fingerprint()
    return load_data(settings.dataset, settings.data_dir, torch.device("cpu")).fingerprint
