"""`sensitivity`: how much accuracy each layer costs, at each ratio. Sweep, save the table, draw it."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch

from tp_vgg import plots
from tp_vgg.criteria import CRITERIA
from tp_vgg.data import Normalisation, load_data
from tp_vgg.device import pick_device
from tp_vgg.errors import BadInput
from tp_vgg.folder import SIZE, folder_fingerprint
from tp_vgg.ranks import Ranks, device_of_rank, joined
from tp_vgg.records import SENSITIVITY, Sensitivity
from tp_vgg.sensitivity import run
from tp_vgg.spec import VGGSpec
from tp_vgg.stages.options import SweepOptions
from tp_vgg.stages.session import data_summary, load_given, session, stage
from tp_vgg.stages.settings import RunDir, Settings, partial_of
from tp_vgg.storage import Journal, file_fingerprint, fingerprint, read_json, write_atomic, write_json, write_text
from tp_vgg.structured import accumulate_gradients
from tp_vgg.tally import Sweep


@stage
def sensitivity(settings: Settings, options: SweepOptions) -> Sensitivity:
    """Sweep every layer; leaves the table as ``.pth``, CSV and record, and its figures. A finished sweep of the same weights, images
    and options is not done again. Under torchrun every process evaluates its share of the images and the first one writes."""
    given = (
        load_given(settings) if settings.out is None else None
    )  # the default run directory is named after what it holds
    if given is not None:
        settings = settings.for_spec(given.spec)
    device = device_of_rank(pick_device(settings.device))
    with joined(device) as ranks:
        if not ranks.leads:
            settings = replace(settings, quiet=True)
        settings = replace(settings, device=str(device))
        done = _finished(settings, options, ranks)
        if done is not None:
            return done
        given = given or load_given(settings)
        if given is not None:
            options.check(given.spec)
        with session(settings, given, ranks) as work:
            with ranks.leader_first():
                dense, baseline = work.baseline(given)
            options.check(dense.spec)
            if CRITERIA[options.importance].needs_gradients:
                accumulate_gradients(dense, work.data.train, Normalisation.of(dense.meta))
            asked = Sweep.of(
                dense,
                options.kind,
                options.levels,
                options.layers,
                options.importance,
                settings.seed,
                settings.precision,
            )
            key = _key(settings, options, baseline.sha256, work.data.fingerprint)
            files = _Files(work.run, options)
            journal = Journal(files.journal, fingerprint(key, asked.precision)) if ranks.leads else None
            split = work.data.val if options.split == "val" else work.data.test
            table = run(dense.eval(), split, asked, key, journal, ranks, quiet=settings.quiet)
            if journal is not None:
                data = {"split": options.split, **data_summary(work.data)}
                write_json(
                    files.record,
                    {
                        **table.to_dict(),
                        "data": data,
                        "environment": baseline.environment,
                        "notes": list(baseline.notes),
                    },
                )
                files.write(table)
                journal.remove()
            return table


class _Files:
    """What a sweep leaves in its run directory."""

    def __init__(self, run: RunDir, options: SweepOptions) -> None:
        name = f"{options.kind}_sensitivity"
        self.results = run.work / f"{name}_results.pth"
        self.csv = run.work / f"{name}.csv"
        self.record = run.work / "records" / f"{name}.json"
        self.journal = partial_of(self.csv).with_suffix(".jsonl")
        self.figures = {run.plot(name): plots.sensitivity, run.plot(f"{name}_cost"): plots.sensitivity_cost}

    def write(self, table: Sensitivity, missing_only: bool = False) -> None:
        """All files that follow from the record."""
        record = read_json(self.record)
        if not (missing_only and self.results.is_file()):
            write_atomic(self.results, lambda file: torch.save(record, file))
        if not (missing_only and self.csv.is_file()):
            write_text(self.csv, table.csv())
        for path, draw in self.figures.items():
            if not (missing_only and path.is_file()):
                plots.save_png(draw(table), path)


def _finished(settings: Settings, options: SweepOptions, ranks: Ranks) -> Sensitivity | None:
    """The table of a sweep that was finished before, if it is of these weights, images and options."""
    digest = _data_fingerprint(settings)
    run_dir = RunDir.of(settings, digest)
    weights = settings.checkpoint or run_dir.own_baseline(settings)
    files = _Files(run_dir, options)
    record = read_json(files.record)
    if record is None or weights is None:
        return None
    try:
        table = Sensitivity.from_dict(record)
        spec = VGGSpec.from_dict(table.spec)
    except (TypeError, KeyError, BadInput):
        return None
    exact = settings.precision == "auto" and table.precision != "bf16"
    if table.key != _key(settings, options, file_fingerprint(weights), digest) or not (
        exact or table.precision == settings.precision
    ):
        return None
    settings.check_spec(spec, weights)
    settings.note(f"{files.record}: these weights, images and options were swept before; nothing to do")
    if ranks.leads:
        files.write(table, missing_only=True)
    return table


def _data_fingerprint(settings: Settings) -> str:
    if settings.dataset == "folder":
        return folder_fingerprint(settings.data_dir, SIZE, settings.note, settings.quiet)
    return load_data(settings.dataset, settings.data_dir, torch.device("cpu")).fingerprint


def _key(settings: Settings, options: SweepOptions, weights: str, data: str) -> str:
    """Of the question: weights, images, options. Precision comes apart, since the device decides what ``auto`` is."""
    asked: dict[str, Any] = {
        **asdict(options),
        "levels": sorted(options.levels),
        "layers": sorted(options.layers or ()),
    }
    limits = [settings.limit_val if options.split == "val" else settings.limit_test]
    if CRITERIA[options.importance].needs_gradients:
        limits.append(settings.limit_train)
    return fingerprint(
        SENSITIVITY, weights, data, asked, limits, settings.seed if options.importance == "random" else 0
    )
