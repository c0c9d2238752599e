"""The `plan` stage finds the best ratios or sparsities for a budget.

It reads a run directory's sweep, searches, and writes the plan file and plan.json.

This module does not import torch.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from tp_vgg.errors import BadInput
from tp_vgg.files.atomic import write_atomic, write_json
from tp_vgg.files.fingerprint import file_fingerprint, text_fingerprint
from tp_vgg.files.journal import Journal
from tp_vgg.files.lock import locked
from tp_vgg.files.read import read_json
from tp_vgg.files.schema import read_table
from tp_vgg.latency.profile import Staircase
from tp_vgg.network.families import spec_from_dict
from tp_vgg.network.spec import Spec
from tp_vgg.planning.allocation import PlanResult
from tp_vgg.planning.budget import read_budget
from tp_vgg.planning.candidates import UNIFORM, candidates
from tp_vgg.planning.make_plan import make_plan
from tp_vgg.pruning.criteria import Kind
from tp_vgg.pruning.ratios import plan_files
from tp_vgg.rundir.contents import RunContents, sweep_table
from tp_vgg.rundir.expected import check_images
from tp_vgg.rundir.layout import PLANS, RunDir
from tp_vgg.rundir.replaced import check_replaced, put_away
from tp_vgg.rundir.settings import Settings
from tp_vgg.sensitivity.table import Sensitivity

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlanOptions:
    """Plan options say which plan is wanted and where it is written."""

    kind: Kind
    budget: dict[str, float]
    """Budget by name; see :func:`tp_vgg.planning.budget.read_budget`."""
    round_to: int = 8
    """Widths are multiples of it, or the full width."""
    output: Path | None = None
    """Path of the plan file; ``None``: ``ratios.json`` or ``sparsity.json`` in the run
    directory."""
    profile: Path | None = None
    """File of the staircase profile; ``None``: for a latency budget, the network's only profile in
    the run directory."""
    force: bool = False
    """Replace another plan in the plan file."""
    realise: int = 0
    """Number of plans that are really pruned and measured, so that the best is taken."""


def plan(settings: Settings, options: PlanOptions) -> tuple[PlanResult, Path]:
    """Find the best plan for a budget, write it, and return the result and the plan file's path.

    The prediction is written to ``plan.json`` of the run directory. Raises :class:`BadInput` if the
    budget can't be met, the sweep or profile is missing or of another network, or a directory or
    another plan is in the way.
    """
    read_budget(options.budget, options.kind)
    if settings.checkpoint is not None:
        from tp_vgg.stages.given import given_network

        settings, _ = given_network(settings)
    contents = RunContents.of(settings)
    path = _path(contents, options)
    _check_output(path, contents.run, from_option=options.output is not None)
    result = best_plan(settings, contents, options)
    check_plan_file(contents, options, result)
    note_chance(contents, options.kind)
    journal = None
    if options.realise:
        result, journal = _realised(settings, contents, options)
        contents = RunContents.of(settings)
    if not keep_plan(settings, contents, options, result):
        log.info(f"{path}: this plan was made before; nothing to do")
    if journal is not None:
        journal.remove()
    return result, path


def best_plan(settings: Settings, contents: RunContents, options: PlanOptions) -> PlanResult:
    """Find the best plan for a budget from the sweep in ``contents``; nothing is written.

    ``settings``: adapted to the model of ``--checkpoint``. Raises :class:`BadInput` if the budget
    can't be met, or the sweep or profile is missing or of another network.
    """
    table, profile, facts = _sources(settings, contents, options)
    return make_plan(table, options.budget, round_to=options.round_to, profile=profile, sweep=facts)


def _realised(
    settings: Settings, contents: RunContents, options: PlanOptions
) -> tuple[PlanResult, Journal | None]:
    """Return the best of several plans, really pruned and measured, and the results' journal."""
    from tp_vgg.stages.realise import realise

    table, profile, facts = _sources(settings, contents, options)
    plans = candidates(
        table,
        options.budget,
        options.realise,
        round_to=options.round_to,
        profile=profile,
        sweep=facts,
    )
    if (count := len(plans.keys() - {UNIFORM})) < options.realise:
        log.info(
            f"--realise {options.realise}: there are {count} plans that differ in a tenth of what "
            "they remove"
        )
    record, _ = contents.sweep(options.kind) or ({}, None)
    data = str(record.get("data", {}).get("fingerprint"))
    result, journal = realise(settings, plans, data, contents.own_plans.get(options.kind))
    return replace(result, realise=options.realise), journal


def _sources(
    settings: Settings, contents: RunContents, options: PlanOptions
) -> tuple[Sensitivity, Staircase | None, dict[str, Any]]:
    """Return the sweep, the profile if one is needed, and facts about the sweep's origin.

    Raises :class:`BadInput` as :func:`best_plan` does.
    """
    source, record, table = _sweep(settings, contents, options.kind)
    spec = spec_from_dict(table.spec)
    settings.check_spec(spec, source)
    check_images(settings, record["data"], source, record["data"]["split"])
    facts = {"weights": record["weights"], "split": record["data"]["split"]}
    return table, _profile(contents, spec, options), facts


def note_chance(contents: RunContents, kind: Kind) -> None:
    """Log a note if the dense model of a sweep is no better than chance, so that no plan can be."""
    _, table = contents.sweep(kind) or ({}, None)
    if table is not None:
        chance = 100 / spec_from_dict(table.spec).num_classes
        for warning in table.baseline.chance_warnings(chance):
            log.info(f"the dense model's {warning}; there is nothing to predict a drop from")


def check_plan_file(contents: RunContents, options: PlanOptions, result: PlanResult) -> bool:
    """Return True if another plan is in the place of this one's file.

    Raises :class:`BadInput` if that may not be replaced.
    """
    path, run = _path(contents, options), contents.run
    _check_output(path, run, from_option=options.output is not None)
    another = path.exists() and not _holds(path, result.file_text)
    if another and not options.force and not contents.wrote(options.kind, path):
        raise BadInput(
            f"{path}: is not a plan that `plan` wrote, or was edited since;"
            " give --force to replace it, or another --output"
        )
    check_replaced(run.work)
    return another


def keep_plan(
    settings: Settings, contents: RunContents, options: PlanOptions, result: PlanResult
) -> bool:
    """Write a plan and its prediction to the run directory; a former plan gives way.

    Returns False if this very plan is there already. Raises :class:`BadInput` if a directory or a
    plan that may not be replaced is in the way.
    """
    path, run, text = _path(contents, options), contents.run, result.file_text
    another = check_plan_file(contents, options, result)
    if not another and path.exists() and contents.own_plans.get(options.kind) == result:
        return False
    with locked(run.root):
        if (path.exists() and not _holds(path, text)) != another:
            raise BadInput(f"{path}: another command has just written it; give the command again")
        former = contents.own_plans.get(options.kind)
        files = plan_files(run.work)
        files[options.kind] = sorted({*files.get(options.kind, ()), text_fingerprint(text)})
        extras = {
            "command": settings.command,
            "other": contents.other_plan(options.kind),
            "files": files,
        }

        def write(file: BinaryIO) -> None:
            file.write(text.encode())
            if another and not options.force:
                put_away(run.work, file_fingerprint(path), [path], [run.plan])
            elif former is not None and _gives_way(former, result) and not options.force:
                put_away(run.work, text_fingerprint(former.file_text), [], [run.plan])
            # Written before the plan has its name, so that no plan file is without a prediction.
            write_json(run.plan, {**result.to_dict(), **extras})

        write_atomic(path, write)
    return True


def _gives_way(former: PlanResult, result: PlanResult) -> bool:
    """Return True if ``former`` says what ``result`` does not: other ratios, or measured plans."""
    return former.file_text != result.file_text or bool(former.realised and not result.realised)


def _path(contents: RunContents, options: PlanOptions) -> Path:
    """Return the path of the plan file; that of its target if it is a link."""
    path = options.output or contents.run.work / PLANS[options.kind]
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def planned(settings: Settings, contents: RunContents, options: PlanOptions) -> bool:
    """Return True if the run directory holds the plan for ``options`` and its current sweep.

    Raises :class:`BadInput` if there is a plan but no sweep or profile for it.
    """
    result = contents.plans.get(options.kind)
    if result is None or not _holds(contents.run.work / PLANS[options.kind], result.file_text):
        return False
    *_, table = _sweep(settings, contents, options.kind)
    profile = _profile(contents, spec_from_dict(table.spec), options)
    wanted = (
        read_budget(options.budget, options.kind),
        options.round_to,
        table.key,
        profile and profile.key,
    )
    return wanted == (
        result.budget,
        result.round_to,
        result.sweep.get("key"),
        (result.profile or {}).get("key"),
    )


def _check_output(path: Path, run: RunDir, *, from_option: bool) -> None:
    if path.is_dir():
        raise BadInput(f"--output: {path}: is a directory; give a file's name")
    if path.exists() and not path.is_file():
        raise BadInput(f"--output: {path}: is not a regular file; give another name")
    if run.plan.is_dir():
        raise BadInput(f"{run.plan}: is a directory; move it away")
    if from_option and not path.parent.is_dir():
        raise BadInput(f"--output: {path.parent}: no such directory")
    if path.resolve() == run.plan.resolve():
        raise BadInput(
            f"--output: {path}: is where the prediction goes;"
            f" give another name, such as {PLANS['structured']}"
        )


def _sweep(
    settings: Settings, contents: RunContents, kind: Kind
) -> tuple[Path, dict[str, Any], Sensitivity]:
    """Return the path of the sweep's record, the record, and the table in it.

    It is the sweep under the tag, else that of the run directory. Raises :class:`BadInput` if there
    is none, or if it is of other weights than the dense model's and can't be that of an earlier
    ``--checkpoint``.
    """
    run, path = contents.run, contents.sweep_path(kind)
    record = read_json(path)
    if record is None:
        raise BadInput(
            f"{run.work}: no {kind} sweep here yet;"
            f" run `python -m tp_vgg sensitivity --kind {kind}` for this run directory first"
        )
    table = sweep_table(path, record, kind)
    dense = settings.checkpoint or run.own_baseline(settings)
    if dense is None or contents.sha256(dense) == record["weights"]:
        return path, record, table
    if settings.checkpoint is not None:
        raise BadInput(
            f"{path}: is of another model than --checkpoint {dense}; sweep that one first"
        )
    measured = record["weights"] in {model.sha256 for model in contents.dense_records}
    if not measured and contents.swept_file(record) in (None, dense.resolve()):
        raise BadInput(
            f"{path}: is of other weights than {dense};"
            f" run `python -m tp_vgg sensitivity --kind {kind}` again"
        )
    return path, record, table


def _profile(contents: RunContents, spec: Spec, options: PlanOptions) -> Staircase | None:
    """Return the profile by which latency is predicted; ``None`` if the options need none.

    Raises :class:`BadInput` if it is needed and there is none, or more than one to choose from.
    """
    if options.profile is not None:
        table = read_table(options.profile, Staircase)
        if table is None:
            raise BadInput(
                f"--profile: {options.profile}: not a profile of"
                " `python -m tp_vgg benchmark --profile`"
            )
        return table
    if "latency" not in options.budget:
        return None
    profiles = contents.profiles(spec)
    if not profiles:
        raise BadInput(
            f"{contents.run.root}: no profile of this network for --budget latency;"
            " run `python -m tp_vgg benchmark --profile` for this run directory first"
        )
    if len(profiles) > 1:
        raise BadInput(
            "--budget latency: there are several profiles;"
            f" give one as --profile: {', '.join(map(str, profiles))}"
        )
    return next(iter(profiles.values()))


def _holds(path: Path, text: str) -> bool:
    return (
        path.is_file()
        and path.stat().st_size == len(text.encode())
        and path.read_bytes() == text.encode()
    )
