"""The `benchmark --profile` stage times each conv of a network at several widths, for plans."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import asdict
from typing import Any

from tp_vgg.errors import BadInput
from tp_vgg.files.atomic import write_json
from tp_vgg.files.fingerprint import fingerprint
from tp_vgg.files.journal import Journal
from tp_vgg.files.lock import locked
from tp_vgg.files.schema import read_table, typed
from tp_vgg.latency.modes import Unavailable, check_available
from tp_vgg.latency.profile import STAIRCASE, Staircase, Timed
from tp_vgg.latency.staircase import GRID, PROFILE_TRIALS, Grid, profile_layer
from tp_vgg.latency.table import BenchmarkCase
from tp_vgg.latency.timing_device import TimingDevice
from tp_vgg.machine.console import progress_bar
from tp_vgg.machine.device import pick_device
from tp_vgg.machine.environment import environment
from tp_vgg.machine.precision import fp32_arithmetic
from tp_vgg.network import checkpoint
from tp_vgg.network.spec import Spec
from tp_vgg.report import figures
from tp_vgg.rundir.layout import RunDir, partial_of
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.given import given_network
from tp_vgg.stages.options import BenchmarkOptions
from tp_vgg.stages.outputs import keep_figure
from tp_vgg.stages.session import stage

log = logging.getLogger(__name__)


@stage
def profile(
    settings: Settings, options: BenchmarkOptions, grid: Grid = GRID
) -> tuple[Staircase, ...]:
    """Time every conv on a grid of widths; return one staircase profile per available case.

    Writes each profile to a file under ``profiles/`` and draws all in one figure. A profile that is
    there already, for the same network, grid, device and versions, is not measured again; one that
    was interrupted is continued. The network is that of ``--checkpoint``, else of the run
    directory's baseline, else of ``--arch`` and ``--head``; its weights do not matter.

    Raises :class:`BadInput` if the device is not available, or can run none of the cases.
    """
    device = pick_device(settings.device)
    settings, given_model = given_network(settings)
    run = RunDir.of(settings)
    own_path = run.own_baseline(settings)
    model = given_model or (checkpoint.load(own_path) if own_path else None)
    spec = model.spec if model else settings.flag_spec()
    timing_device = TimingDevice.of(device, options.threads)
    cases = available_cases(options, timing_device)
    trials = options.trials or PROFILE_TRIALS
    with locked(run.root), timing_device.at_work():
        before = set(run.work.glob("profiles/*.json"))
        profiles = [
            _profile_case(settings, run, spec, case, timing_device, grid, trials) for case in cases
        ]
        # `run` asks for the same profile several times.
        anew = settings.begin is None or not run.plot("staircase").is_file()
        if anew or before != set(run.work.glob("profiles/*.json")):
            keep_figure(settings, run, "staircase", figures.staircase(profiles))
    return tuple(profiles)


def available_cases(options: BenchmarkOptions, timing_device: TimingDevice) -> list[BenchmarkCase]:
    """Return the cases for which the timing device has the hardware; log the others.

    Nothing is run. Raises :class:`BadInput` if no case is left.
    """
    cases, why = [], ""
    for case in options.cases:
        try:
            check_available(case, timing_device.cuda)
            cases.append(case)
        except Unavailable as error:
            why = f"{case.label}: not available: {error}"
            log.info(why)
    if not cases:
        raise BadInput(f"--modes, --dtypes: this device has none of them ({why})")
    return cases


def _profile_case(
    settings: Settings,
    run: RunDir,
    spec: Spec,
    case: BenchmarkCase,
    timing_device: TimingDevice,
    grid: Grid,
    trials: int,
) -> Staircase:
    machine = {**environment(timing_device.device), "threads": timing_device.threads}
    # On CUDA the replays of graphs are timed, not single calls.
    method = [] if timing_device.cuda is None else ["replays"]
    key = fingerprint(
        STAIRCASE, spec.to_dict(), asdict(case), asdict(grid), trials, machine, *method
    )
    name = "".join(c if c.isalnum() else "-" for c in machine["device"].lower())
    file = f"{name}-{case.dtype}-b{case.batch_size}-{key[:8]}.json"
    widths = grid.of(spec)
    for directory in (run.work, run.root):
        path = directory / "profiles" / file
        finished = read_table(path, Staircase)
        if (
            finished is not None
            and finished.key == key
            and {layer: finished.widths(layer) for layer in finished.layers} == widths
        ):
            if settings.begin is None:
                log.info(f"{path}: was profiled before; delete it to measure again")
            return finished
    settings.begin_work()
    path = run.work / "profiles" / file
    journal = Journal(partial_of(path).with_suffix(".jsonl"), key)
    points: dict[str, list[Timed]] = {}
    for entry in journal.entries:
        with contextlib.suppress(KeyError, TypeError, ValueError):
            timed = [typed(Timed, point) for point in entry["points"]]
            if (
                tuple((point.in_width, point.out_width) for point in timed)
                == widths[entry["layer"]]
            ):
                points[entry["layer"]] = timed
    label = f"profile {case.dtype}, batch {case.batch_size}"
    options: dict[str, Any] = {"total": len(widths), "initial": len(points)}
    with progress_bar(label, unit="layer", quiet=settings.quiet, **options) as bar:
        for row in spec.rows:
            if row.name in widths and row.name not in points:
                with fp32_arithmetic(tf32=case.dtype == "tf32", deterministic=False):
                    points[row.name] = list(
                        profile_layer(
                            row,
                            widths[row.name],
                            case,
                            timing_device.device,
                            timing_device.quick,
                            trials,
                            timing_device.cuda,
                        )
                    )
                journal.append(
                    {"layer": row.name, "points": [asdict(point) for point in points[row.name]]}
                )
                bar.update()
    ordered = tuple(point for layer in widths for point in points[layer])
    table = Staircase(key, spec.to_dict(), case.dtype, case.batch_size, machine, ordered)
    write_json(path, table.to_dict())
    journal.remove()
    return table
