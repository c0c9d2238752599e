"""`sensitivity`: how much accuracy each layer costs, at each ratio. Sweep, save the table, draw it."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tp_vgg.data.datasets import load_data
from tp_vgg.data.split import Normalisation
from tp_vgg.errors import BadInput
from tp_vgg.files.atomic import write_atomic, write_json, write_text
from tp_vgg.files.fingerprint import file_fingerprint, fingerprint
from tp_vgg.files.journal import Journal
from tp_vgg.files.lock import locked
from tp_vgg.files.read import read_json
from tp_vgg.files.schema import table_of
from tp_vgg.files.torch_archive import read_archive
from tp_vgg.machine.distributed import Ranks
from tp_vgg.network.vgg.model import VGG
from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.pruning.calibration import calibration_sample
from tp_vgg.pruning.criteria import CRITERIA
from tp_vgg.pruning.gradients import accumulate_gradients
from tp_vgg.pruning.ratios import removals
from tp_vgg.report import figures
from tp_vgg.rundir.layout import RunDir, partial_of
from tp_vgg.rundir.settings import Settings
from tp_vgg.sensitivity.question import Sweep
from tp_vgg.sensitivity.sweep import run
from tp_vgg.sensitivity.table import SENSITIVITY, Sensitivity
from tp_vgg.stages.baseline import baseline as baseline_of
from tp_vgg.stages.options import SweepOptions
from tp_vgg.stages.outputs import keep_figure
from tp_vgg.stages.session import data_summary, load_given, ranked, session, stage

log = logging.getLogger(__name__)


def sensitivity(settings: Settings, options: SweepOptions) -> Sensitivity:
    """Sweep every layer; leaves the table as ``.pth``, CSV and record, and its figures. A finished sweep of the same weights, images
    and options is not done again. Under torchrun every process evaluates its share of the images and the first one writes."""
    given = None if _swept_before(settings, options) else load_given(settings)
    if given is not None:
        options.check(given.spec)
        settings = settings.for_spec(given.spec)
    with ranked(settings) as (settings, ranks):
        with ranks.leader_first():
            done = _finished(settings, options, ranks)
        return ranks.lead(done) or _swept(settings, options, given or load_given(settings), ranks)


@stage
def _swept(settings: Settings, options: SweepOptions, given: VGG | None, ranks: Ranks) -> Sensitivity:
    with session(settings, given, ranks, writes=()) as work:
        dense, baseline = baseline_of(work, given)
        options.check(dense.spec)
        options = options.named(dense.spec)
        if CRITERIA[options.importance].needs_gradients:
            accumulate_gradients(
                dense,
                work.data.train,
                Normalisation.of(dense.meta),
                squared=CRITERIA[options.importance].squared,
                label=settings.bar("gradients"),
            )
        asked = Sweep.of(
            dense,
            options.kind,
            options.levels,
            options.layers,
            options.importance,
            settings.seed,
            settings.precision,
            recalibrate=options.recalibrate,
        )
        sample = calibration_sample(work.data.train) if options.recalibrate else None
        key = _key(settings, options, baseline.sha256, work.data.fingerprint)
        files = _Files(settings, work.run, options)
        journal = Journal(files.journal, _journal_key(key, asked.precision, settings)) if ranks.leads else None
        split = work.data.val if options.split == "val" else work.data.test
        table = run(dense.eval(), split, asked, key, journal, ranks, sample=sample, quiet=settings.quiet)
        if journal is not None:
            about = {"split": options.split, **data_summary(work.data)}
            notes = {
                "weights": baseline.sha256,
                "data": about,
                "environment": baseline.environment,
                "notes": list(baseline.notes),
            }
            files.record.unlink(missing_ok=True)  # of an older sweep: from here on its files are being written over
            files.write({**table.to_dict(), **notes})
            write_json(files.record, {**table.to_dict(), **notes, "command": settings.command})
            journal.remove()
        return table


def _swept_before(settings: Settings, options: SweepOptions) -> bool:
    """Whether the record in an explicit ``--out`` is of the very ``--checkpoint``, so that its spec stands for the file's and loading that
    can wait. Raises :class:`BadInput` for options that do not fit it."""
    if settings.out is None or settings.checkpoint is None:
        return False
    record = read_json(_Files(settings, RunDir.of(settings), options).record) or {}
    if record.get("weights") != file_fingerprint(settings.checkpoint):
        return False
    try:
        spec = VGGSpec.from_dict(record["spec"])
    except (KeyError, BadInput):
        return False
    options.check(spec)
    settings.check_spec(spec, settings.checkpoint)
    return True


class _Files:
    """What a sweep leaves in its run directory. The record comes last: where it is, the others are its own."""

    def __init__(self, settings: Settings, run: RunDir, options: SweepOptions) -> None:
        self.settings, self.run = settings, run
        name = f"{options.kind}_sensitivity"
        self.results = run.work / f"{name}_results.pth"
        self.csv = run.work / f"{name}.csv"
        self.record = run.work / "records" / f"{name}.json"
        self.journal = partial_of(self.csv).with_suffix(".jsonl")
        self.figures = {name: figures.sensitivity, f"{name}_cost": figures.sensitivity_cost}

    def write(self, record: dict[str, Any], *, missing_only: bool = False) -> None:
        """All files that follow from the record."""
        table = Sensitivity.from_dict(record)
        record = {name: value for name, value in record.items() if name != "command"}
        record = json.loads(json.dumps(record))  # pickle's bytes tell shared objects from equal ones
        if not (missing_only and _holds(self.results, record)):
            write_atomic(self.results, lambda file: torch.save(record, file))
        if not (missing_only and self.csv.is_file() and self.csv.read_bytes() == table.csv().encode()):
            write_text(self.csv, table.csv())
        for figure, draw in self.figures.items():
            if not (missing_only and self.run.plot(figure).is_file()):
                keep_figure(self.settings, self.run, figure, draw(table))


def _holds(path: Path, record: dict[str, Any]) -> bool:
    try:
        return bool(read_archive(path) == record)
    except Exception:  # noqa: BLE001  what a torn or foreign file raises is not documented
        return False


def _finished(settings: Settings, options: SweepOptions, ranks: Ranks) -> Sensitivity | None:
    """The table of a sweep that was finished before, if it is of these weights, images and options."""
    digest = _data_fingerprint(settings)
    run_dir = RunDir.of(settings, digest)
    weights = settings.checkpoint or run_dir.own_baseline(settings)
    files = _Files(settings, run_dir, options)
    record = read_json(files.record)
    if record is None or weights is None:
        return None
    table = table_of(Sensitivity, record)
    if table is None:
        return None
    try:
        spec = VGGSpec.from_dict(table.spec)
        options, levels = options.named(spec), sorted(options.levels)
        removed = removals(options.kind, spec, levels, options.layers)
    except (TypeError, KeyError, ValueError, BadInput):
        return None
    if table.key != _key(settings, options, file_fingerprint(weights), digest) or table.removed != removed:
        return None
    if any([point.ratio for point in table.of_layer(layer)] != levels for layer in removed):
        return None
    if table.precision != settings.precision and not (settings.precision == "auto" and table.precision != "bf16"):
        return None
    settings.check_spec(spec, weights)
    log.info(f"{files.record}: these weights, images and options were swept before; nothing to do")
    if ranks.leads:
        with locked(run_dir.root):
            files.write(record, missing_only=True)
            if Journal.key_of(files.journal) == _journal_key(table.key, table.precision, settings):
                files.journal.unlink()  # the sweep died between its record and this
    return table


def _data_fingerprint(settings: Settings) -> str:
    if settings.dataset == "folder":
        return settings.folder_fingerprint()
    return load_data(settings.dataset, settings.data_dir, torch.device("cpu")).fingerprint


def _journal_key(key: str, precision: str, settings: Settings) -> str:
    """Of the work on a question: with the precision that ``auto`` came to, and the kind of device, whose sums are its own."""
    return fingerprint(key, precision, settings.device.partition(":")[0])


def _key(settings: Settings, options: SweepOptions, weights: str, data: str) -> str:
    """Of the question: weights, images, options. Precision comes apart, since the device decides what ``auto`` is."""
    asked: dict[str, Any] = {
        **{name: value for name, value in asdict(options).items() if name != "recalibrate" or value},
        "levels": sorted(options.levels),
        "layers": sorted(options.layers or ()),
    }
    limits = [settings.limit_val if options.split == "val" else settings.limit_test]
    if options.recalibrate or CRITERIA[options.importance].needs_gradients:
        limits.append(settings.limit_train)
    return fingerprint(
        SENSITIVITY, weights, data, asked, limits, settings.seed if options.importance == "random" else 0
    )
