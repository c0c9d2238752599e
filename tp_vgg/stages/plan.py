"""The `plan` stage finds the best ratios or sparsities for a budget.

It reads a run directory's sweep, searches, and writes the plan file and plan.json.

This module does not import torch.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from tp_vgg.errors import BadInput
from tp_vgg.files.journal import Journal
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
from tp_vgg.rundir.contents import RunContents, sweep_table
from tp_vgg.rundir.expected import check_images
from tp_vgg.rundir.layout import PLANS
from tp_vgg.rundir.settings import Settings
from tp_vgg.sensitivity.table import Sensitivity
from tp_vgg.stages.plan_file import (
    PlanOptions,
    check_output,
    check_plan_file,
    holds,
    keep_plan,
    plan_path,
)

log = logging.getLogger(__name__)


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
    path = plan_path(contents, options)
    check_output(path, contents.run, from_option=options.output is not None)
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


def planned(settings: Settings, contents: RunContents, options: PlanOptions) -> bool:
    """Return True if the run directory holds the plan for ``options`` and its current sweep.

    Raises :class:`BadInput` if there is a plan but no sweep or profile for it.
    """
    result = contents.plans.get(options.kind)
    if result is None or not holds(contents.run.work / PLANS[options.kind], result.file_text):
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
