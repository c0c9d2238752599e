"""`benchmark`: the latency of a run directory's models, and the staircase of each conv on this device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

from tp_vgg import checkpoint, plots
from tp_vgg.bench import Bench
from tp_vgg.device import environment, fp32_arithmetic, pick_device
from tp_vgg.errors import BadInput
from tp_vgg.latencies import LATENCY, STAIRCASE, Cell, Latency, LatencyRow, Staircase, Timed, latency_row
from tp_vgg.latency import check_models, measure
from tp_vgg.modes import Unavailable, check_available
from tp_vgg.schedule import Schedule
from tp_vgg.spec import VGGSpec
from tp_vgg.stages.board import keep_figure
from tp_vgg.stages.compare import compare, recorded
from tp_vgg.stages.options import BenchmarkOptions
from tp_vgg.stages.session import load_given, stage
from tp_vgg.stages.settings import MODELS, RunDir, Settings, partial_of
from tp_vgg.staircase import GRID, PROFILE_TRIALS, Grid, profile_layer
from tp_vgg.storage import Journal, file_fingerprint, fingerprint, locked, read_json, write_json
from tp_vgg.typed import typed


@stage
def benchmark(settings: Settings, options: BenchmarkOptions, checkpoints: tuple[Path, ...] = ()) -> Latency:
    """Time the models of the run directory, or the dense one and ``checkpoints``; leaves ``latency.json`` and its figure, and
    brings ``metrics.json`` up to date. Finished cells are journaled; a finished benchmark is measured anew."""
    device = pick_device(settings.device)
    bench = Bench.of(device, options.threads)
    _available(options, bench)
    run, paths = _paths(settings, checkpoints)
    models = {name: checkpoint.load(path) for name, path in paths.items()}
    check_models(models)
    for path in checkpoints:
        settings.check_spec(models[str(path)].spec, path)
    files = {name: {"checkpoint": str(path), "sha256": file_fingerprint(path)} for name, path in paths.items()}
    if MODELS[0] not in paths:
        settings.note(f"no dense model in {run.root}: the others are compared with {checkpoints[0]}")
    schedule = Schedule(options.cells, options.trials, options.hot, options.probes)
    asked = {name: about["sha256"] for name, about in files.items()}
    key = fingerprint(LATENCY, list(asked.items()), asdict(options), bench.threads, environment(device))
    with locked(run.root):
        journal = Journal(partial_of(run.latency).with_suffix(".jsonl"), key)

        def keep(rows: tuple[LatencyRow, ...]) -> None:
            journal.append({"rows": [asdict(row) for row in rows]})

        known = {
            rows[0].cell: rows
            for rows in _rows(journal)
            if [row.model for row in rows] == list(models) and not throttled(rows)
        }
        if known:
            settings.note(f"{len(known)} of {len(schedule.cells)} cells were measured before the interruption")
        found = measure(models, schedule, bench, known=known, done=keep, quiet=settings.quiet)
        found.conditions["command"] = settings.command
        found = replace(found, models={name: {**about, **files[name]} for name, about in found.models.items()})
        write_json(run.latency, found.to_dict())
        keep_figure(settings, run, "latency", plots.latency(found))
        journal.remove()
        if not checkpoints and recorded(settings, run):
            compare(settings)
    return found


def benchmarked(settings: Settings, options: BenchmarkOptions) -> bool:
    """Whether ``latency.json`` is of the run directory's models as they are, with these cells, on this device and these versions."""
    run, paths = _paths(settings, ())
    try:
        found = Latency.from_dict(read_json(run.latency) or {})
    except (BadInput, TypeError, KeyError, ValueError):
        return False
    bench = Bench.of(pick_device(settings.device), options.threads)
    return (
        {name: about.get("sha256") for name, about in found.models.items()}
        == {name: file_fingerprint(path) for name, path in paths.items()}
        and set(options.cells) == {row.cell for row in found.rows}
        and not throttled(found.rows)
        and found.environment == bench.environment
    )


def throttled(rows: Iterable[LatencyRow]) -> bool:
    """Whether a cell was not measured because the device's clock was too low: another time it may be."""
    return any(row.verdict == "not available" and row.slow_blocks for row in rows)


def _rows(journal: Journal) -> Iterator[tuple[LatencyRow, ...]]:
    """The cells of an interrupted benchmark, but for entries that none has written."""
    for entry in journal.entries:
        with contextlib.suppress(KeyError, TypeError, ValueError):
            yield tuple(latency_row(row) for row in entry["rows"])


def _paths(settings: Settings, checkpoints: tuple[Path, ...]) -> tuple[RunDir, dict[str, Path]]:
    """The files to time by name, the dense one first."""
    given = load_given(settings)
    if given is not None:
        settings = settings.for_spec(given.spec)
    run = RunDir.of(settings)
    records = recorded(settings, run)
    dense = settings.checkpoint or run.own_baseline(settings)
    if settings.checkpoint is None and records:
        dense = run.root / records[MODELS[0]].checkpoint
    known: dict[str, Path] = {}
    if dense is not None:
        digest = file_fingerprint(dense)
        pruned = {} if checkpoints else {n: r for n, r in records.items() if r.baseline == digest}
        known = {MODELS[0]: dense, **{name: run.root / record.checkpoint for name, record in pruned.items()}}
    elif not checkpoints:
        raise BadInput(
            f"{run.work}: nothing to time yet; run `python -m tp_vgg structured` with these options first, or name checkpoints"
        )
    if any(str(path) in known for path in checkpoints):
        raise BadInput(f"CHECKPOINT: {MODELS[0]}: is what the dense model is called here; give the file another name")
    return run, {**known, **{str(path): path for path in checkpoints}}


@stage
def profile(settings: Settings, options: BenchmarkOptions, grid: Grid = GRID) -> tuple[Staircase, ...]:
    """Time every conv over a grid of widths, once for each device, dtype and batch; leaves a table each and one figure.

    The network is that of ``--checkpoint``, of the run directory's baseline or of the flags; its weights do not matter.
    """
    device = pick_device(settings.device)
    given = load_given(settings)
    if given is not None:
        settings = settings.for_spec(given.spec)
    run = RunDir.of(settings)
    own = run.own_baseline(settings)
    spec = given.spec if given else checkpoint.load(own).spec if own else settings.flag_spec()
    bench = Bench.of(device, options.threads)
    cells = _available(options, bench, settings.note)
    trials = options.trials or PROFILE_TRIALS
    with locked(run.root), bench.at_work():
        found = [_profiled(settings, run, spec, cell, bench, grid, trials) for cell in cells]
        keep_figure(settings, run, "staircase", plots.staircase(found))
    return tuple(found)


def _available(options: BenchmarkOptions, bench: Bench, note: Callable[[str], None] = lambda _: None) -> list[Cell]:
    """The cells that this device does not lack from the outset. Raises :class:`BadInput` where that leaves none."""
    cells, why = [], ""
    for cell in options.cells:
        try:
            check_available(cell, bench.cuda)
            cells.append(cell)
        except Unavailable as reason:
            why = f"{cell.label}: not available: {reason}"
            note(why)
    if not cells:
        raise BadInput(f"--modes, --dtypes: this device has none of them ({why})")
    return cells


def _profiled(
    settings: Settings, run: RunDir, spec: VGGSpec, cell: Cell, bench: Bench, grid: Grid, trials: int
) -> Staircase:
    from tqdm import tqdm

    place = {**environment(bench.device), "threads": bench.threads}
    how = [] if bench.cuda is None else ["replays"]
    key = fingerprint(STAIRCASE, spec.to_dict(), asdict(cell), asdict(grid), trials, place, *how)
    name = "".join(c if c.isalnum() else "-" for c in place["device"].lower())
    path = run.root / "profiles" / f"{name}-{cell.dtype}-b{cell.batch_size}-{key[:8]}.json"
    widths = grid.of(spec)
    finished = _read_profile(path, key)
    if finished is not None and {layer: finished.widths(layer) for layer in finished.layers} == widths:
        settings.note(f"{path}: was profiled before; delete it to measure anew")
        return finished
    journal = Journal(partial_of(path).with_suffix(".jsonl"), key)
    points: dict[str, list[Timed]] = {}
    for entry in journal.entries:
        with contextlib.suppress(KeyError, TypeError, ValueError):
            timed = [typed(Timed, point) for point in entry["points"]]
            if tuple((point.in_width, point.out_width) for point in timed) == widths[entry["layer"]]:
                points[entry["layer"]] = timed
    label = f"profile {cell.dtype}, batch {cell.batch_size}"
    with tqdm(spec.rows, label, unit="layer", disable=settings.quiet or None) as bar:
        for row in bar:
            if row.name in widths and row.name not in points:
                with fp32_arithmetic(tf32=cell.dtype == "tf32", deterministic=False):
                    points[row.name] = list(
                        profile_layer(row, widths[row.name], cell, bench.device, bench.quick, trials, bench.cuda)
                    )
                journal.append({"layer": row.name, "points": [asdict(point) for point in points[row.name]]})
    ordered = tuple(point for layer in widths for point in points[layer])
    table = Staircase(key, spec.to_dict(), cell.dtype, cell.batch_size, place, ordered)
    write_json(path, table.to_dict())
    journal.remove()
    return table


def _read_profile(path: Path, key: str) -> Staircase | None:
    try:
        data = read_json(path)
        table = Staircase.from_dict(data) if data is not None else None
    except (TypeError, KeyError, ValueError):
        return None
    return table if table is not None and table.key == key else None
