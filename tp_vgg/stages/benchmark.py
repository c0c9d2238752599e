"""The `benchmark` stage measures the latency of a run directory's models on this device."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

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
from tp_vgg.report import model_figures
from tp_vgg.rundir.comparison import recorded
from tp_vgg.rundir.contents import RunContents
from tp_vgg.rundir.layout import MODELS, partial_of
from tp_vgg.rundir.replaced import put_away
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.compare import compare
from tp_vgg.stages.given import given_network, load_model
from tp_vgg.stages.options import BenchmarkOptions
from tp_vgg.stages.outputs import keep_figure
from tp_vgg.stages.profile import available_cases
from tp_vgg.stages.session import stage

log = logging.getLogger(__name__)


@stage
def benchmark(
    settings: Settings, options: BenchmarkOptions, checkpoints: tuple[Path, ...] = ()
) -> Latency:
    """Time the models of the run directory, or the dense one and ``checkpoints``.

    Writes ``latency.json`` and its figure and, without ``checkpoints``, updates ``metrics.json``.
    Each finished case is kept in a journal, so that an interrupted benchmark continues there. A
    finished benchmark is measured again.

    Raises :class:`BadInput` if there is nothing to time, a checkpoint can't be read or a flag
    contradicts it, the models take images of different sizes, or the device lacks all cases.
    """
    device = pick_device(settings.device)
    timing_device = TimingDevice.of(device, options.threads)
    with muted():
        available_cases(options, timing_device)
    contents, paths = _paths(settings, checkpoints)
    run = contents.run
    dense_path = paths.get(MODELS[0])
    models = {
        name: load_model(settings, path, quiet=path == dense_path) for name, path in paths.items()
    }
    check_models(models)
    files = {
        name: {"checkpoint": str(path), "sha256": contents.sha256(path)}
        for name, path in paths.items()
    }
    if MODELS[0] not in paths:
        log.info(f"no dense model in {run.root}: the others are compared with {checkpoints[0]}")
    benchmark_settings = BenchmarkSettings(
        options.cases, options.trials, options.reuse_input, options.probes
    )
    digests = [(name, file["sha256"]) for name, file in files.items()]
    key = fingerprint(
        LATENCY, digests, _key_parts(options), timing_device.threads, environment(device)
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
                f"{len(known)} of {len(benchmark_settings.cases)} cases were measured before the"
                " interruption"
            )
        elif _is_of(contents, paths, options, timing_device):
            log.info(f"{run.latency}: these cases were timed before; they are timed again")
        latency = measure(
            models,
            benchmark_settings,
            timing_device,
            known=known,
            case_done=keep,
            quiet=settings.quiet,
        )
        latency.conditions["command"] = settings.command
        latency = replace(
            latency,
            models={name: {**facts, **files[name]} for name, facts in latency.models.items()},
        )
        if _timed_something_else(contents.latency, latency):
            put_away(run.work, contents.sha256(run.latency), [run.plot("latency"), run.latency])
        write_json(run.latency, latency.to_dict())
        keep_figure(settings, run, "latency", model_figures.latency(latency))
        journal.remove()
        if not checkpoints and contents.models:
            compare(settings, contents=contents)
    return latency


def _timed_something_else(former: Latency | None, latency: Latency) -> bool:
    """Return True if a ``former`` benchmark is of other models, cases or machines."""
    if former is None:
        return False
    measured = [
        (
            sorted(str(facts.get("sha256")) for facts in table.models.values()),
            sorted({row.case.label for row in table.rows}),
            table.environment,
            table.conditions.get("hot"),
        )
        for table in (former, latency)
    ]
    return measured[0] != measured[1]


def _key_parts(options: BenchmarkOptions) -> dict[str, Any]:
    parts = asdict(options)
    # The fields keep their first names here, so that older journals are still taken.
    parts["cells"], parts["hot"] = parts.pop("cases"), parts.pop("reuse_input")
    return parts


def benchmarked(settings: Settings, options: BenchmarkOptions) -> bool:
    """Return True if ``latency.json`` is a benchmark of the run directory's current models.

    It must have the same cases, device, versions and number of threads, and no throttled case; its
    trials are not compared.
    """
    contents, paths = _paths(settings, ())
    timing_device = TimingDevice.of(pick_device(settings.device), options.threads)
    return _is_of(contents, paths, options, timing_device)


def _is_of(
    contents: RunContents,
    paths: Mapping[str, Path],
    options: BenchmarkOptions,
    timing_device: TimingDevice,
) -> bool:
    latency = read_table(contents.run.latency, Latency)
    return (
        latency is not None
        and {name: facts.get("sha256") for name, facts in latency.models.items()}
        == {name: contents.sha256(path) for name, path in paths.items()}
        and set(options.cases) == {row.case for row in latency.rows}
        and not throttled(latency.rows)
        and latency.environment == timing_device.environment
    )


def throttled(rows: Iterable[LatencyRow]) -> bool:
    """Return True if a case has no times only because the device's clock was too low then."""
    return any(row.verdict == "not available" and row.slow_blocks for row in rows)


def _rows(journal: Journal) -> Iterator[tuple[LatencyRow, ...]]:
    """Yield the rows of each case in the journal; entries that are not rows are skipped."""
    for entry in journal.entries:
        with contextlib.suppress(KeyError, TypeError, ValueError):
            yield tuple(latency_row(row) for row in entry["rows"])


def _paths(
    settings: Settings, checkpoints: tuple[Path, ...]
) -> tuple[RunContents, dict[str, Path]]:
    """Return the run directory's contents and the files to time by name, the dense one first.

    A file of ``checkpoints`` has its path as its name. Raises :class:`BadInput` if there is nothing
    to time or a path is the dense model's name.
    """
    settings, _ = given_network(settings)
    contents = RunContents.of(settings)
    run, records = contents.run, recorded(settings, contents)
    dense = settings.checkpoint or run.own_baseline(settings)
    if settings.checkpoint is None and records:
        dense = run.root / records[MODELS[0]].checkpoint
    paths: dict[str, Path] = {}
    if dense is not None:
        digest = contents.sha256(dense)
        pruned = {} if checkpoints else {n: r for n, r in records.items() if r.baseline == digest}
        paths = {
            MODELS[0]: dense,
            **{name: run.root / record.checkpoint for name, record in pruned.items()},
        }
    elif not checkpoints:
        raise BadInput(
            f"{run.work}: nothing to time yet; run `python -m tp_vgg structured` for this"
            " run directory first, or name checkpoints"
        )
    if any(str(path) in paths for path in checkpoints):
        raise BadInput(
            f"CHECKPOINT: {MODELS[0]}: is what the dense model is called here;"
            " give the file another name"
        )
    return contents, {**paths, **{str(path): path for path in checkpoints}}
