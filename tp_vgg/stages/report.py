"""The `report` stage writes one HTML page from the files of the run directory alone."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import get_args

from tp_vgg import __version__
from tp_vgg.errors import BadInput
from tp_vgg.files.atomic import write_text
from tp_vgg.files.fingerprint import file_fingerprint, fingerprint
from tp_vgg.machine.console import progress_bar
from tp_vgg.network.families import spec_from_dict
from tp_vgg.pruning.criteria import Kind
from tp_vgg.report.page import Findings, render
from tp_vgg.rundir.comparison import Comparison, compared
from tp_vgg.rundir.contents import RunContents
from tp_vgg.rundir.layout import HISTORIES, MODELS, RunDir
from tp_vgg.rundir.pareto import pareto_of
from tp_vgg.rundir.settings import Settings, flags
from tp_vgg.stages.compare import records_of
from tp_vgg.stages.findings import drawn_figures
from tp_vgg.stages.given import given_network
from tp_vgg.stages.session import stage

log = logging.getLogger(__name__)


@stage
def report(settings: Settings, *, anew: bool = True) -> Path:
    """Write ``report.html`` of a run directory and return its path.

    The page shows what the directory holds. With ``anew=False``, a page that shows the current
    files already is not written again. Raises :class:`BadInput` if nothing has run yet or a
    checkpoint is not that of its record.
    """
    flag_settings = settings
    settings, _ = given_network(settings)
    contents = RunContents.of(settings)
    run = contents.run
    path = run.work / "report.html"
    if path.is_dir():
        raise BadInput(f"{path}: is a directory; move it away")
    comparison = compared(contents, records_of(settings, contents))
    several = pareto_of(contents, comparison.records[MODELS[0]])
    key = _key(flag_settings, run, comparison, [] if several is None else [several.key])
    if not anew and path.is_file() and key in path.read_text("utf-8", "replace"):
        return path
    settings.begin_work()
    findings = _findings(flag_settings, contents, comparison, key)
    text = render(findings)
    if path.is_file() and path.read_text("utf-8", "replace") == text:
        log.info(f"{path}: shows these results already; nothing has changed")
        return path
    write_text(path, text)
    return path


def _findings(
    flag_settings: Settings, contents: RunContents, comparison: Comparison, key: str
) -> Findings:
    """Return all that the page shows: the run directory's results for this dense model."""
    dense = comparison.records[MODELS[0]]
    sweeps, commands = {}, [record.command for record in comparison.records.values()]
    for kind in reversed(get_args(Kind)):
        record, table = contents.sweep(kind) or ({}, None)
        if table is not None and record.get("weights") == dense.sha256 and table.spec == dense.spec:
            sweeps[kind] = table
            commands.append(str(record.get("command", "")))
    prunable = spec_from_dict(dense.spec).prunable.keys()
    plans = {
        kind: plan
        for kind, plan in contents.plans.items()
        if plan.sweep.get("weights") == dense.sha256 and plan.ratios.keys() <= prunable
    }
    commands += contents.plan_commands() if plans else []
    profiles = list(contents.profiles(spec_from_dict(dense.spec)).values())
    planned_with = (plans["structured"].profile or {}).get("key") if "structured" in plans else None
    profile = next(
        (table for table in profiles if table.key == planned_with),
        profiles[0] if profiles else None,
    )
    if comparison.latency is not None:
        commands.append(str(comparison.latency.conditions.get("command", "")))
    if (several := pareto_of(contents, dense)) is not None:
        commands.append(several.command)
    figures = []
    with progress_bar("report", unit=" figures", quiet=flag_settings.quiet) as bar:
        for figure in drawn_figures(contents, comparison, sweeps, profile):
            figures.append(figure)
            bar.update()
        bar.total = bar.n
    return Findings(
        records=comparison.records,
        sweeps=sweeps,
        plans=plans,
        latency=comparison.latency if comparison.quoted() else None,
        quoted=comparison.quoted(),
        profile=profile,
        plan_outcomes=tuple(outcome.line() for outcome in comparison.plan_outcomes),
        drawn=tuple(figures),
        prune_command=shlex.join(
            [
                "python",
                "-m",
                "tp_vgg",
                "structured",
                "--ratios",
                "ratios.json",
                *flags(flag_settings),
                "--tag",
                "mine",
            ]
        ),
        left_out=tuple(f"{name} {fault}" for name, fault in contents.left_out.items()),
        key=key,
        commands=tuple(dict.fromkeys(line for line in commands if line)),
    )


def _key(flag_settings: Settings, run: RunDir, comparison: Comparison, pareto: list[str]) -> str:
    """Return a fingerprint of everything that the page shows.

    ``pareto``: the key of the Pareto table that is shown, if there is one.
    """
    directories = dict.fromkeys((run.root, run.work))
    files = [
        path
        for directory in directories
        for name in ("records", "profiles")
        for path in sorted((directory / name).glob("*.json"))
    ]
    files += [
        directory / name
        for directory in directories
        for name in ("plan.json", "latency.json", *HISTORIES.values())
    ]
    digests = [[str(path), file_fingerprint(path)] for path in files if path.is_file()]
    return fingerprint(
        __version__, flags(flag_settings), list(comparison.records), digests, *pareto
    )
