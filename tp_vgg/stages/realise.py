"""Plans are realised here: really pruned, repaired and measured, so that the best can be taken."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from tp_vgg.data.split import Normalisation, Split
from tp_vgg.errors import BadInput
from tp_vgg.evaluation.evaluate import hits
from tp_vgg.evaluation.hits import pack_hits, unpack_hits
from tp_vgg.files.fingerprint import fingerprint
from tp_vgg.files.journal import Journal
from tp_vgg.machine.console import progress_bar
from tp_vgg.network.network import Network
from tp_vgg.planning.allocation import PlanResult, Prediction, RealisedPlan
from tp_vgg.pruning.calibration import recalibrate
from tp_vgg.pruning.repair import repair
from tp_vgg.pruning.repair_sample import LEAST_IMAGES
from tp_vgg.pruning.repairs import REPAIR_IMAGES
from tp_vgg.pruning.structured import prune_structured
from tp_vgg.pruning.unstructured import prune_unstructured
from tp_vgg.rundir.layout import partial_of
from tp_vgg.rundir.settings import Settings
from tp_vgg.sensitivity.table import Point
from tp_vgg.stages.baseline import dense_model
from tp_vgg.stages.given import given_network
from tp_vgg.stages.session import Session, open_session, stage

log = logging.getLogger(__name__)


@stage
def realise(
    settings: Settings, plans: Mapping[str, PlanResult], data: str, former: PlanResult | None
) -> tuple[PlanResult, Journal | None]:
    """Prune, repair and measure each of ``plans``, and return the best with all results in it.

    ``data``: the fingerprint of the sweep's data. ``former``: a plan that comes back if it is the
    best of the same plans, realised in the same way. The journal of the results comes back too; it
    is removed once the plan is saved.

    They are measured on the images of the sweep. The best has the smallest drop; with a budget of
    ``drop``, it is the smallest network among those that keep to the budget, if there is one. The
    first of equal ones is taken. Each result is kept in a journal, so that after a stop the same
    call goes on.

    Raises :class:`BadInput` if the dense model is not that of the sweep, or its images are not.
    """
    settings, given_model = given_network(settings)
    with open_session(settings, given_model) as session:
        if given_model is None and session.run.own_baseline(settings) is None:
            raise BadInput("--realise: needs the dense model of the sweep; give it as --checkpoint")
        if session.data.fingerprint != data:
            raise BadInput("--realise: the sweep is of other images; give its data set")
        dense = dense_model(session, given_model)
        first = next(iter(plans.values()))
        if session.contents.sha256(dense.path) != first.sweep.get("weights"):
            raise BadInput(f"--realise: the sweep is of other weights than {dense.path}")
        images = session.data.test if first.sweep.get("split") == "test" else session.data.val
        if len(images) != first.sweep["n"]:
            raise BadInput(
                f"--realise: the sweep saw {first.sweep['n']:,} images, and there are "
                f"{len(images):,}; give the limits of the sweep"
            )
        if len(session.data.train) < LEAST_IMAGES:
            raise BadInput(f"--realise: the repair needs {LEAST_IMAGES} training images or more")
        path = partial_of(session.run.work / f"{first.kind}_realised.json").with_suffix(".jsonl")
        moves = first.kind == "unstructured" and first.repair != "recalibrate"
        key = fingerprint(
            first.sweep["weights"], session.data.fingerprint, first.sweep["key"], settings.seed,
            settings.limits, *settings.normalisation_parts(),
            *(["moved zeros"] if moves else []),
        )  # fmt: skip
        texts = [plan.file_text for plan in plans.values()]
        if former is not None and former.realised_key == fingerprint(key, texts):
            return former, None
        journal = Journal(path, key)
        known = _known(journal, len(images))
        results: dict[str, np.ndarray] = {}
        bar = progress_bar("realise", plans.items(), unit="plan", quiet=settings.quiet)
        dense_hits = _hits(dense.model, images)
        for name, plan in bar:
            if plan.file_text not in known:
                known[plan.file_text] = _hits(_pruned(session, dense.model, plan), images)
                journal.append(
                    {
                        "plan": plan.file_text,
                        "n": len(images),
                        "hits": pack_hits(known[plan.file_text]),
                    }
                )
            results[name] = known[plan.file_text]
    rows = {name: _row(name, plans[name], results[name], dense_hits) for name in plans}
    taken = _taken(plans, rows)
    result = replace(
        plans[taken],
        realised=tuple(replace(row, taken=name == taken) for name, row in rows.items()),
        realised_key=fingerprint(key, texts),
    )
    return result, journal


def _known(journal: Journal, n: int) -> dict[str, np.ndarray]:
    """Return the hits of the plans that the journal holds, by the plan's text."""
    known = {}
    for entry in journal.entries:
        if isinstance(entry.get("plan"), str) and entry.get("n") == n:
            known[entry["plan"]] = unpack_hits(entry["hits"], n)
    return known


def _hits(model: Network, images: Split) -> np.ndarray:
    return hits(model, images, Normalisation.of(model.meta))


def _pruned(session: Session, dense: Network, plan: PlanResult) -> Network:
    """Return a copy of ``dense`` that is pruned by ``plan`` and repaired.

    The repair is that of the sweep, or ``reconstruct`` if the sweep had none, as pruning does it.
    """
    settings, train = session.settings, session.data.train
    model = copy.deepcopy(dense)
    if plan.kind == "structured":
        session.accumulate_gradients(model, plan.importance)
        prune_structured(
            model, plan.ratios, importance=plan.importance, seed=settings.seed, images=train
        )
        model.zero_grad(set_to_none=True)
    else:
        prune_unstructured(model, plan.ratios)
    if plan.repair == "recalibrate":
        recalibrate(model, train, Normalisation.of(model.meta), settings.seed)
    else:
        repair(
            model, dense, train, limit=min(REPAIR_IMAGES, len(train)), flip=session.data.flip,
            seed=settings.seed, move_zeros=plan.kind == "unstructured",
        )  # fmt: skip
    return model


def _row(name: str, plan: PlanResult, found: np.ndarray, dense: np.ndarray) -> RealisedPlan:
    point = Point.of("", 0.0, 0, found, dense)
    said = plan.prediction
    return RealisedPlan(
        name, plan.ratios, said.drop, said.macs_share, said.params_share,
        point.drop, point.drop_low, point.drop_high, taken=False,
    )  # fmt: skip


def _taken(plans: Mapping[str, PlanResult], rows: Mapping[str, RealisedPlan]) -> str:
    """Return the name of the best of ``rows``, which are of ``plans``."""
    first = next(iter(plans.values()))
    limit = first.budget.get("drop")
    within = [name for name, row in rows.items() if limit is not None and row.drop <= limit]
    if within:
        return min(within, key=lambda name: _cost(plans[name].prediction, first.minimised))
    return min(rows.values(), key=lambda row: row.drop).name


def _cost(prediction: Prediction, minimised: str) -> float:
    if minimised == "latency" and prediction.latency_share is not None:
        return prediction.latency_share
    if minimised == "sparsity":
        return -prediction.sparsity
    return prediction.macs_share if minimised == "macs" else prediction.params_share
