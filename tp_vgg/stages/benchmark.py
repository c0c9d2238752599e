"""`benchmark`: the latency of a run directory's models on this device."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

from tp_vgg.errors import BadInput
from tp_vgg.files.atomic import write_json
from tp_vgg.files.fingerprint import fingerprint
from tp_vgg.files.journal import Journal
from tp_vgg.files.lock import locked
from tp_vgg.files.schema import read_table
from tp_vgg.latency.benchmark import check_models, measure
from tp_vgg.latency.schedule import BenchmarkSettings
from tp_vgg.latency.table import LATENCY, Latency, LatencyRow, latency_row
from tp_vgg.latency.timing_device import TimingDevice
from tp_vgg.machine.console import muted
from tp_vgg.machine.device import pick_device
from tp_vgg.machine.environment import environment
from tp_vgg.network import checkpoint
from tp_vgg.report import figures
from tp_vgg.rundir.contents import RunContents
from tp_vgg.rundir.layout import MODELS, partial_of
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.compare import compare
from tp_vgg.stages.options import BenchmarkOptions
from tp_vgg.stages.outputs import keep_figure
from tp_vgg.stages.profile import available_cases
from tp_vgg.stages.session import load_given, stage

log = logging.getLogger(__name__)


@stage
def benchmark(
    settings: Settings, options: BenchmarkOptions, checkpoints: tuple[Path, ...] = ()
) -> Latency:
    """Time the models of the run directory, or the dense one and ``checkpoints``; leaves ``latency.json`` and its figure, and
    brings ``metrics.json`` up to date. Finished cases are journaled; a finished benchmark is measured anew."""
    device = pick_device(settings.device)
    timing_device = TimingDevice.of(device, options.threads)
    with muted():
        available_cases(options, timing_device)
    contents, paths = _paths(settings, checkpoints)
    run = contents.run
    models = {name: checkpoint.load(path) for name, path in paths.items()}
    check_models(models)
    for path in checkpoints:
        settings.check_spec(models[str(path)].spec, path)
    files = {
        name: {"checkpoint": str(path), "sha256": contents.sha256(path)}
        for name, path in paths.items()
    }
    if MODELS[0] not in paths:
        log.info(f"no dense model in {run.root}: the others are compared with {checkpoints[0]}")
    schedule = BenchmarkSettings(options.cases, options.trials, options.reuse_input, options.probes)
    asked = {name: about["sha256"] for name, about in files.items()}
    key = fingerprint(
        LATENCY, list(asked.items()), asdict(options), timing_device.threads, environment(device)
    )
    with locked(run.root):
        journal = Journal(partial_of(run.latency).with_suffix(".jsonl"), key)

        def keep(rows: tuple[LatencyRow, ...]) -> None:
            journal.append({"rows": [asdict(row) for row in rows]})

        known = {
            rows[0].case: rows
            for rows in _rows(journal)
            if [row.model for row in rows] == list(models) and not throttled(rows)
        }
        if known:
            log.info(
                f"{len(known)} of {len(schedule.cases)} cases were measured before the interruption"
            )
        found = measure(
            models, schedule, timing_device, known=known, done=keep, quiet=settings.quiet
        )
        found.conditions["command"] = settings.command
        found = replace(
            found, models={name: {**about, **files[name]} for name, about in found.models.items()}
        )
        write_json(run.latency, found.to_dict())
        keep_figure(settings, run, "latency", figures.latency(found))
        journal.remove()
        if not checkpoints and contents.models:
            compare(settings, contents=contents)
    return found


def benchmarked(settings: Settings, options: BenchmarkOptions) -> bool:
    """Whether ``latency.json`` is of the run directory's models as they are, with these cases, on this device and these versions."""
    contents, paths = _paths(settings, ())
    found = read_table(contents.run.latency, Latency)
    if found is None:
        return False
    timing_device = TimingDevice.of(pick_device(settings.device), options.threads)
    return (
        {name: about.get("sha256") for name, about in found.models.items()}
        == {name: contents.sha256(path) for name, path in paths.items()}
        and set(options.cases) == {row.case for row in found.rows}
        and not throttled(found.rows)
        and found.environment == timing_device.environment
    )


def throttled(rows: Iterable[LatencyRow]) -> bool:
    """Whether a case was not measured because the device's clock was too low: another time it may be."""
    return any(row.verdict == "not available" and row.slow_blocks for row in rows)


def _rows(journal: Journal) -> Iterator[tuple[LatencyRow, ...]]:
    """The cases of an interrupted benchmark, but for entries that none has written."""
    for entry in journal.entries:
        with contextlib.suppress(KeyError, TypeError, ValueError):
            yield tuple(latency_row(row) for row in entry["rows"])


def _paths(
    settings: Settings, checkpoints: tuple[Path, ...]
) -> tuple[RunContents, dict[str, Path]]:
    """The files to time by name, the dense one first."""
    given = load_given(settings)
    if given is not None:
        settings = settings.for_spec(given.spec)
    contents = RunContents.of(settings)
    run, records = contents.run, contents.models
    dense = settings.checkpoint or run.own_baseline(settings)
    if settings.checkpoint is None and records:
        dense = run.root / records[MODELS[0]].checkpoint
    known: dict[str, Path] = {}
    if dense is not None:
        digest = contents.sha256(dense)
        pruned = {} if checkpoints else {n: r for n, r in records.items() if r.baseline == digest}
        known = {
            MODELS[0]: dense,
            **{name: run.root / record.checkpoint for name, record in pruned.items()},
        }
    elif not checkpoints:
        raise BadInput(
            f"{run.work}: nothing to time yet; run `python -m tp_vgg structured` with these options first, or name checkpoints"
        )
    if any(str(path) in known for path in checkpoints):
        raise BadInput(
            f"CHECKPOINT: {MODELS[0]}: is what the dense model is called here; give the file another name"
        )
    return contents, {**known, **{str(path): path for path in checkpoints}}
