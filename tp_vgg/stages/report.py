"""`report`: one page, drawn from the run directory alone."""

from __future__ import annotations

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
from tp_vgg.rundir.settings import Settings, flags
from tp_vgg.stages.findings import drawn_figures
from tp_vgg.stages.session import load_given, stage


@stage
def report(settings: Settings, *, anew: bool = True) -> Path:
    """Write ``report.html`` from what is there; unless ``anew``, only where it is not of the files as they are. Returns its path. Raises
    :class:`BadInput` where nothing has run yet."""
    asked, given = settings, load_given(settings)
    if given is not None:
        settings = settings.for_spec(given.spec)
    contents = RunContents.of(settings)
    run = contents.run
    path = run.work / "report.html"
    if path.is_dir():
        raise BadInput(f"{path}: is a directory; move it away")
    found = compared(contents)
    key = _key(asked, run, found)
    if not anew and path.is_file() and key in path.read_text("utf-8", "replace"):
        return path
    text = render(_findings(asked, contents, found, key), quiet=settings.quiet)
    write_text(path, text)
    return path


def _findings(asked: Settings, contents: RunContents, found: Comparison, key: str) -> Findings:
    """All that the page shows: what the run directory holds of this dense model."""
    dense = found.records[MODELS[0]]
    sweeps, commands = {}, [record.command for record in found.records.values()]
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
    used = (plans["structured"].profile or {}).get("key") if "structured" in plans else None
    profile = next(
        (table for table in profiles if table.key == used), profiles[0] if profiles else None
    )
    if found.latency is not None:
        commands.append(str(found.latency.conditions.get("command", "")))
    drawn = progress_bar(
        "report",
        drawn_figures(contents, found, sweeps, profile),
        unit=" figures",
        quiet=asked.quiet,
    )
    return Findings(
        records=found.records,
        sweeps=sweeps,
        plans=plans,
        latency=found.latency if found.quoted() else None,
        quoted=found.quoted(),
        profile=profile,
        plan_outcomes=tuple(one.line() for one in found.plan_outcomes),
        drawn=tuple(drawn),
        prune_command=shlex.join(
            [
                "python",
                "-m",
                "tp_vgg",
                "structured",
                "--ratios",
                "ratios.json",
                *flags(asked),
                "--tag",
                "mine",
            ]
        ),
        key=key,
        commands=tuple(dict.fromkeys(line for line in commands if line)),
    )


def _key(asked: Settings, run: RunDir, found: Comparison) -> str:
    """Fingerprint of all that the page is drawn from."""
    work = dict.fromkeys((run.root, run.work))
    files = [
        path
        for directory in work
        for name in ("records", "profiles")
        for path in sorted((directory / name).glob("*.json"))
    ]
    files += [
        directory / name
        for directory in work
        for name in ("plan.json", "latency.json", *HISTORIES.values())
    ]
    there = [[str(path), file_fingerprint(path)] for path in files if path.is_file()]
    return fingerprint(__version__, flags(asked), list(found.records), there)
