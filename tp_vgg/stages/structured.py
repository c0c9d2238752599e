"""The `structured` stage makes a smaller network.

It ranks the channels, removes the least important ones, checks the equivalence, saves, fine-tunes
and saves again.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch

from tp_vgg.data.split import Normalisation
from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.network.families import fold_batch_norm
from tp_vgg.network.network import Network
from tp_vgg.network.spec import Spec
from tp_vgg.pruning.equivalence import EQUIVALENCE_IMAGES, EquivalenceCheck
from tp_vgg.pruning.ranking import rank, top_k
from tp_vgg.pruning.ratios import unremoved_note
from tp_vgg.pruning.structured import prune_channels
from tp_vgg.report import figures
from tp_vgg.rundir.layout import MODELS
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.defaults import finetune_recipe, structured_epochs
from tp_vgg.stages.options import StructuredOptions, StructuredRequest, StructuredTarget
from tp_vgg.stages.pruning import Drawing, drawing, pruning, work_key
from tp_vgg.stages.pruning_steps import continued, pruning_steps
from tp_vgg.stages.repair import Repaired, chosen_repair, repaired_model, unpruned_copy
from tp_vgg.stages.results import Prepared, deleted_unless_published
from tp_vgg.stages.session import Session, stage
from tp_vgg.training.history import Epoch, history_csv

log = logging.getLogger(__name__)


@stage
def structured(
    settings: Settings, request: StructuredRequest, *, advise: bool = True
) -> dict[str, ModelRecord]:
    """Prune channels and fine-tune; return the records by model name, the baseline's included.

    Writes a checkpoint and a record of the pruned model and, if it is fine-tuned, of the fine-tuned
    one. With ``advise``, a note names the command that times them. Raises
    :class:`~tp_vgg.errors.BadInput` if the request does not fit the model, and
    :class:`~tp_vgg.errors.WorkFailed` if the equivalence check, the saving or the fine-tuning
    fails.
    """
    options = request.options
    with pruning(settings, request, MODELS[2:]) as job:
        session, model = job.session, job.dense
        if request.show is not None and session.ranks.is_main:
            _draw(job, options, request.show)
        key = work_key(
            session.settings, job.baseline.sha256, model.spec, job.resolved.plan, options
        )
        epochs = structured_epochs(session.settings, options)
        if not request.force and (
            records := job.finished(MODELS[2:] if epochs else MODELS[2:3], key)
        ):
            return records
        session.settings.begin_work()
        target = job.resolved.spec
        if note := unremoved_note(job.resolved.plan, model.spec, target, options.round_to):
            log.info(note)
        options = replace(options, repair=chosen_repair(options.repair))
        former = job.former(MODELS[2:], key, force=request.force)
        teacher = fold_batch_norm(model) if options.finetune.distill else None
        trained = model.meta.get("training")
        history: tuple[Epoch, ...] = ()
        final = session.run.checkpoint(MODELS[3], target.stem)
        steps = pruning_steps(options.steps, epochs, final)
        dense = model.spec
        prepared: list[Prepared] = []
        with deleted_unless_published(prepared, session.ranks):
            for step in steps:
                step_target = between(dense, target, step.number / step.count)
                note, repaired = _prune(session, model, step_target, options)
                log.info(step.numbered(note))
                model.meta.update(baseline=job.baseline.sha256, key=key)
                if step.last:
                    prepared.append(session.prepare(model, MODELS[2], notes=(note,)))
                    if repaired is not None:
                        prepared[0] = prepared[0].repaired(repaired.record(prepared[0].record))
                    if former is None:
                        session.publish(prepared)
                if step.epochs:
                    recipe = finetune_recipe(
                        session.settings, model.spec, step.epochs, options.finetune, trained,
                        refitted=options.repair.method() == "reconstruct",
                    )  # fmt: skip
                    history = continued(
                        history, session.fit(model, recipe, step.partial, step.training, teacher)
                    )
            if history:
                tuned = session.prepare(model, MODELS[3], notes=(note,))
                prepared.append(tuned.repaired(prepared[0].record.repair))
            waiting = prepared if former is not None else prepared[1:]
            if waiting:
                session.publish(waiting, former, history_csv(history) if history else "")
        session.discard(*(step.partial for step in steps if step.epochs))
        if advise and session.settings.begin is None:
            log.info("to time the models: python -m tp_vgg benchmark, with the same options")
        return {MODELS[0]: job.baseline, **{one.name: one.record for one in prepared}}


@stage
def show_structured(settings: Settings, request: StructuredRequest) -> Path:
    """Draw the filters that the request would remove from its layer ``show``.

    Returns the figure's path. The model is not pruned.
    """
    assert request.show is not None
    with drawing(settings, request) as job:
        return job.session.ranks.run_on_main(lambda: _draw(job, request.options, str(request.show)))


def between(spec: Spec, target: Spec, share: float) -> Spec:
    """Return the spec when a fraction of the pruning from ``spec`` to ``target`` is done.

    ``share``: that fraction of each layer's channels to remove, in [0, 1].
    """
    widths = {
        name: width - round((width - target.prunable[name]) * share)
        for name, width in spec.prunable.items()
    }
    return spec.with_widths(widths)


def _prune(
    session: Session, model: Network, target: Spec, options: StructuredOptions
) -> tuple[str, Repaired | None]:
    """Prune and repair ``model`` in place; return a note about both, and the repair."""
    dense = unpruned_copy(model, options.repair)
    session.accumulate_gradients(model, options.importance)
    sample = session.ranking_sample(model, options.importance)
    images = torch.cat(
        [split.images[:EQUIVALENCE_IMAGES] for split in (session.data.val, session.data.train)]
    )[:EQUIVALENCE_IMAGES]
    normalisation = Normalisation.of(model.meta)
    settings = session.settings
    result = prune_channels(
        model, target, normalisation(images), options.importance, settings.seed, sample,
        quiet=settings.quiet,
    )  # fmt: skip
    model.zero_grad(set_to_none=True)
    note = _check_note(result.proof)
    repaired = repaired_model(session, model, dense, options.repair)
    return (note if repaired is None else f"{note}; {repaired.note}"), repaired


def _draw(job: Drawing[StructuredTarget], options: StructuredOptions, layer: str) -> Path:
    model, seed = job.dense, job.session.settings.seed
    job.session.accumulate_gradients(model, options.importance)
    sample = job.session.ranking_sample(model, options.importance)
    score = rank(model, [layer], options.importance, seed, sample)[layer]
    weights = model.get_submodule(layer).get_parameter("weight").detach().cpu().numpy()
    kept = top_k(score, job.resolved.spec.prunable[layer])
    figure = figures.removed_filters(weights, kept, score.numpy(), layer, options.importance)
    return job.draw(f"structured_{layer}", figure)


def _check_note(check: EquivalenceCheck) -> str:
    return (
        f"equivalence check passed on {check.images} images in fp64:"
        f" largest difference of logits {check.difference:.1e}, largest logit {check.scale:.2f}"
    )
