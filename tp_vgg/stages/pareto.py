"""The `pareto` stage makes one pruned model per budget and compares accuracy, cost and speed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace

from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.files.atomic import write_json, write_text
from tp_vgg.files.fingerprint import fingerprint
from tp_vgg.files.lock import locked
from tp_vgg.files.schema import read_table
from tp_vgg.latency.table import BenchmarkCase, LatencyRow
from tp_vgg.latency.timing_device import TimingDevice
from tp_vgg.machine.device import pick_device
from tp_vgg.network.families import spec_from_dict
from tp_vgg.network.network import Network
from tp_vgg.planning.allocation import PlanResult
from tp_vgg.report.pareto import pareto_csv
from tp_vgg.report.pareto_figure import pareto as figure_of
from tp_vgg.rundir.contents import RunContents
from tp_vgg.rundir.layout import MODELS, RunDir
from tp_vgg.rundir.pareto import PARETO, Pareto, ParetoPoint, pareto_of
from tp_vgg.rundir.replaced import put_away
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.baseline import baseline
from tp_vgg.stages.benchmark import benchmark
from tp_vgg.stages.given import check_not_overwritten, given_network
from tp_vgg.stages.measure import data_summary
from tp_vgg.stages.options import BenchmarkOptions, StructuredRequest
from tp_vgg.stages.outputs import keep_figure
from tp_vgg.stages.pareto_plans import ParetoOptions, inside, variant
from tp_vgg.stages.plan_file import check_plan_file, keep_plan
from tp_vgg.stages.pruning import work_key
from tp_vgg.stages.session import Session, open_session, stage
from tp_vgg.stages.structured import structured

log = logging.getLogger(__name__)


@stage
def pareto(settings: Settings, options: ParetoOptions, plans: Mapping[str, PlanResult]) -> Pareto:
    """Prune, fine-tune and time one model per budget; return the table of all.

    ``plans``: those of the budgets (:func:`~tp_vgg.stages.pareto_plans.best_plans`).

    Each model has a directory of its own (:func:`~tp_vgg.stages.pareto_plans.variant`). Writes
    ``pareto.csv``, its record and its figure. Finished work is kept: an interrupted call continues,
    and a finished one is not repeated unless models, images, settings or the machine changed.

    Raises :class:`~tp_vgg.errors.BadInput`, before any model is made, if a file is in the way, and
    otherwise as :func:`~tp_vgg.stages.structured.structured` does.
    """
    # Planning has logged the notes on the file of --checkpoint.
    settings, given_model = given_network(replace(settings, noted=True))
    with open_session(settings, given_model) as session:
        data, contents = data_summary(session.data), session.contents
        _check_files(session, given_model, plans, options)
        model, dense = baseline(session, given_model)
        requests = {budget: options.request(plan) for budget, plan in plans.items()}
        for request in requests.values():
            request.resolve(model.spec)
    settings = _of_dense(settings, contents.run, dense)
    key = _key(settings, dense, data, requests, options)
    run, table = contents.run, pareto_of(contents, dense)
    if table is not None and table.key == key and not options.force:
        log.info(
            f"{run.pareto}: made with these settings before; nothing to do (--force makes it again)"
        )
        with locked(run.root):
            _write(settings, run, table, missing_only=True)
        return table
    models = {}
    for number, (budget, plan) in enumerate(plans.items()):
        log.info(f"{budget} (budget {number + 1} of {len(plans)})")
        limits = options.budgets[number]
        here = variant(settings, limits)
        keep_plan(here, RunContents.of(here), options.plan_options(limits), plan)
        models[budget] = structured(here, requests[budget], advise=False)
    table = _timed(
        settings,
        options,
        run,
        Pareto(
            key,
            dense.sha256,
            dense.normalisation,
            data,
            dense.test.accuracy,
            dense.chance,
            tuple(_point(budget, plans[budget], records) for budget, records in models.items()),
            command=settings.command,
        ),
    )
    with locked(run.root):
        former = read_table(run.pareto_record, Pareto)
        if former is not None and former.key != key and not options.force:
            put_away(run.work, former.key, [run.pareto, run.plot("pareto"), run.pareto_record])
        _write(settings, run, table)
    return table


def _check_files(
    session: Session,
    given_model: Network | None,
    plans: Mapping[str, PlanResult],
    options: ParetoOptions,
) -> None:
    """Raise :class:`~tp_vgg.errors.BadInput` if a file is in the way of one of the models."""
    for budget, plan in zip(options.budgets, plans.values(), strict=True):
        here = variant(session.settings, budget)
        contents = RunContents(RunDir.of(here, session.data.fingerprint))
        check_plan_file(contents, options.plan_options(budget), plan)
        if given_model is not None and here.checkpoint is not None:
            stem = given_model.spec.stem
            check_not_overwritten(here.checkpoint, contents.run, stem, MODELS[2:])


def _of_dense(settings: Settings, run: RunDir, dense: ModelRecord) -> Settings:
    """Return the settings with the dense model and the run directory named.

    All steps then work with the same ones, whatever else the directory holds.
    """
    spec = spec_from_dict(dense.spec)
    path = settings.checkpoint or run.root / dense.checkpoint
    return replace(settings.for_spec(spec), out=run.root, checkpoint=path)


def _case(options: ParetoOptions) -> BenchmarkCase | None:
    """Return the case in which all models are timed; ``None`` if they are not."""
    size = options.batch_size_timed
    return BenchmarkCase("folded", "fp32", size) if size else None


def _key(
    settings: Settings,
    dense: ModelRecord,
    data: Mapping[str, object],
    requests: Mapping[str, StructuredRequest],
    options: ParetoOptions,
) -> str:
    """Return the key of the table: dense model, images, each budget's settings and the timing."""
    case, spec = _case(options), spec_from_dict(dense.spec)
    works = [
        (budget, work_key(settings, dense.sha256, spec, request.plan_for(spec), request.options))
        for budget, request in requests.items()
    ]
    machine = TimingDevice.of(pick_device(settings.device)).environment if case else None
    return fingerprint(
        PARETO, dense.sha256, dict(data), works, None if case is None else asdict(case), machine
    )


def _point(budget: str, plan: PlanResult, records: Mapping[str, ModelRecord]) -> ParetoPoint:
    """Return the point of a budget, without times; ``records``: those of its models."""
    dense, pruned = records[MODELS[0]], records[MODELS[2]]
    tuned = records.get(MODELS[3], pruned)
    drop, drop_low, drop_high = tuned.drop_against(dense)
    return ParetoPoint(
        budget,
        tuned.checkpoint,
        tuned.sha256,
        tuned.macs / dense.macs,
        tuned.params / dense.params,
        pruned.test.accuracy,
        tuned.test.accuracy,
        tuned.test.low,
        tuned.test.high,
        tuned.test.n,
        drop,
        drop_low,
        drop_high,
        plan.prediction.drop,
    )


def _timed(settings: Settings, options: ParetoOptions, run: RunDir, table: Pareto) -> Pareto:
    """Return the table with the times of all its models, measured in one benchmark."""
    case = _case(options)
    if case is None:
        return table
    paths = {point.budget: run.root / point.checkpoint for point in table.points}
    # No images are timed: the options that select them would only be held against records.
    where = replace(inside(settings, "pareto-latency"), limit_test=None, explicit=frozenset())
    latency = benchmark(where, BenchmarkOptions((case,), probes=False), tuple(paths.values()))
    rows = {row.model: row for row in latency.rows}
    return replace(
        table,
        points=tuple(_with_times(point, rows[str(paths[point.budget])]) for point in table.points),
        control=_interval(rows[latency.reference]),
        environment=latency.environment,
    )


def _interval(row: LatencyRow) -> tuple[float, ...]:
    """Return the speed-up of a row and its interval; empty if the case was not available."""
    numbers = (row.speedup, row.speedup_low, row.speedup_high)
    return tuple(value for value in numbers if value is not None)


def _with_times(point: ParetoPoint, row: LatencyRow) -> ParetoPoint:
    if row.speedup is None:
        return point
    return replace(
        point,
        speedup=row.speedup,
        speedup_low=row.speedup_low,
        speedup_high=row.speedup_high,
        verdict=row.verdict,
        case=row.case.label,
    )


def _write(settings: Settings, run: RunDir, table: Pareto, *, missing_only: bool = False) -> None:
    """Write the table as CSV, as a figure and, last, as the record."""
    if not (missing_only and run.pareto.is_file()):
        write_text(run.pareto, pareto_csv(table))
        log.info(f"wrote {run.pareto}")
    if not (missing_only and run.plot("pareto").is_file()):
        keep_figure(settings, run, "pareto", figure_of(table))
    if not missing_only:
        write_json(run.pareto_record, table.to_dict())
