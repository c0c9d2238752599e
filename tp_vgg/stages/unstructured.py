"""The `unstructured` stage sets weights to zero.

It masks the least important weights, fine-tunes with the masks and makes the zeros permanent, in
one step or in several; then it saves.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from pathlib import Path

from tp_vgg.errors import WorkFailed
from tp_vgg.evaluation.record import ModelRecord, finetuning_note
from tp_vgg.network.families import fold_batch_norm
from tp_vgg.network.masks import is_masked, remove_masks
from tp_vgg.network.network import Network
from tp_vgg.network.spec import Spec
from tp_vgg.pruning.gradients import taylor_scores
from tp_vgg.pruning.gradual import Gradual, sparsity_after
from tp_vgg.pruning.ratios import Plan
from tp_vgg.pruning.unstructured import mask_global, mask_layers
from tp_vgg.report import figures
from tp_vgg.rundir.layout import MODELS
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.defaults import finetune_recipe
from tp_vgg.stages.options import (
    EXTREME_ZEROS,
    RepairOptions,
    UnstructuredOptions,
    UnstructuredRequest,
)
from tp_vgg.stages.pruning import Drawing, Pruning, drawing, pruning, work_key
from tp_vgg.stages.pruning_steps import PruningStep, continued, pruning_steps
from tp_vgg.stages.repair import Accuracies, Repaired, chosen_repair, repaired_model, unpruned_copy
from tp_vgg.stages.results import deleted_unless_published
from tp_vgg.stages.session import Session, stage
from tp_vgg.training.history import Epoch, history_csv

log = logging.getLogger(__name__)

_ZEROED = "weights were set to zero"


@stage
def unstructured(settings: Settings, request: UnstructuredRequest) -> dict[str, ModelRecord]:
    """Zero weights and fine-tune; return the records by model name, the baseline's included.

    Writes the checkpoint, with exact zeros, and its record. Raises
    :class:`~tp_vgg.errors.BadInput` if the request does not fit the model, and
    :class:`~tp_vgg.errors.WorkFailed` if a whole layer would be zero, or the saving or the
    fine-tuning fails.
    """
    options = request.options
    with pruning(settings, request, MODELS[1:2]) as job:
        session, model = job.session, job.dense
        finetune, names = options.finetune, MODELS[1:2]
        if request.show is not None and session.ranks.is_main:
            masked = copy.deepcopy(model)
            _mask(session, masked, job.resolved, options)
            _draw(job, masked, request.show)
        key = work_key(session.settings, job.baseline.sha256, model.spec, job.resolved, options)
        if not request.force and (records := job.finished(names, key)):
            return records
        session.settings.begin_work()
        repair = chosen_repair(
            options.repair, options.better_without_repair(model.spec, job.resolved)
        )
        count = _step_count(options, model.spec, job.resolved)
        former = job.former(names, key, force=request.force)
        teacher = fold_batch_norm(model) if finetune.distill and finetune.epochs else None
        trained = model.meta.get("training")
        masking = _gradual(job.resolved, options)
        history: tuple[Epoch, ...] = ()
        repaired: Repaired | None = None
        before_training = None
        final = session.run.checkpoint("unstructured", model.spec.stem)
        steps = pruning_steps(count, finetune.epochs or 0, final)
        for step in steps:
            if masking is not None:
                masking.begin(model)
            else:
                repaired = _zero(job, options, repair, step)
            if repaired is not None:
                log.info(step.numbered(f"{_ZEROED}; {repaired.note}"))
            if step.epochs:
                if repaired is not None and step.last:
                    before_training = Accuracies.of(session, model, "repaired")
                recipe = finetune_recipe(
                    session.settings, model.spec, step.epochs, finetune, trained
                )
                history = continued(
                    history,
                    session.fit(model, recipe, step.partial, step.training, teacher, masking),
                )
            remove_masks(model)
        notes = (finetuning_note(finetune.epochs), *_zeros_note(count, repaired))
        model.meta = {**model.meta, "baseline": job.baseline.sha256, "key": key}
        prepared = session.prepare(model, "unstructured", notes=notes)
        if repaired is not None:
            measured = before_training or prepared.record
            prepared = prepared.repaired(repaired.record(measured))
        with deleted_unless_published([prepared], session.ranks):
            session.publish([prepared], former, history_csv(history) if history else "")
        record = prepared.record
        if not any(record.sparsity.values()):
            log.info(
                f"no weight is set to zero: {job.resolved.source} is too small for these layers"
            )
        shares = ", ".join(f"{name} {share:.1%}" for name, share in record.sparsity.items())
        log.info(
            f"zeros by layer: {shares};"
            f" {record.nonzero:,} of {record.params:,} parameters are not zero"
        )
        session.discard(*(step.partial for step in steps if step.epochs))
        return {MODELS[0]: job.baseline, "unstructured": record}


@stage
def show_unstructured(settings: Settings, request: UnstructuredRequest) -> Path:
    """Draw the weights of the request's layer ``show`` before and after pruning.

    Returns the figure's path. The pruned model is not saved.
    """
    assert request.show is not None
    with drawing(settings, request) as job:
        _mask(job.session, job.dense, job.resolved, request.options)
        return job.session.ranks.run_on_main(lambda: _draw(job, job.dense, str(request.show)))


def _gradual(plan: Plan, options: UnstructuredOptions) -> Gradual | None:
    if not options.gradual:
        return None
    return Gradual(None if options.global_sparsity else plan, options.global_sparsity)


def _draw(job: Drawing[Plan], masked: Network, layer: str) -> Path:
    module = masked.get_submodule(layer)
    names = ("weight_orig", "weight") if is_masked(module) else ("weight", "weight")
    before, after = (getattr(module, name).detach().cpu().numpy() for name in names)
    return job.draw(f"unstructured_{layer}", figures.masked_weights(before, after, layer))


def _step_count(options: UnstructuredOptions, spec: Spec, plan: Plan) -> int:
    """Return the number of steps, and log it unless it is what was asked for."""
    count = options.chosen_steps(spec, plan)
    if options.steps is None and count > 1:
        log.info(
            f"--steps: {count}, since with {100 * EXTREME_ZEROS:g} % zeros or more a fine-tuning "
            "does better so"
        )
    elif (options.steps or 1) > count:
        log.info("--steps: without effect, since nothing is trained or refitted in between")
    return count


def _zeros_note(count: int, repaired: Repaired | None) -> tuple[str, ...]:
    """Return what the record says of the zeros, if it is more than that they are there."""
    zeroed = _ZEROED if count == 1 else f"{_ZEROED} in {count} steps"
    if repaired is not None:
        return (f"{zeroed}; {repaired.note}",)
    return (zeroed,) if count > 1 else ()


def _zero(
    job: Pruning[Plan], options: UnstructuredOptions, repair: RepairOptions, step: PruningStep
) -> Repaired | None:
    """Mask the weights of a step and repair the model, in place; return the repair."""
    session, model = job.session, job.dense
    before = unpruned_copy(model, repair)
    try:
        _mask(session, model, *_part(job.resolved, options, step))
    except WorkFailed as error:
        raise WorkFailed(step.numbered(str(error))) from error
    return repaired_model(session, model, before, repair, move_zeros=options.move_zeros)


def _part(
    plan: Plan, options: UnstructuredOptions, step: PruningStep
) -> tuple[Plan, UnstructuredOptions]:
    """Return the plan and the options of the zeros that there are after ``step``."""

    def part(final: float) -> float:
        return sparsity_after(step.number, step.count, final)

    values = {name: part(value) for name, value in plan.values.items()}
    whole = options.global_sparsity
    return (
        Plan(values, plan.source),
        replace(options, global_sparsity=None if whole is None else part(whole)),
    )


def _mask(session: Session, model: Network, plan: Plan, options: UnstructuredOptions) -> None:
    scores = None
    if options.importance == "taylor":
        session.accumulate_gradients(model, options.importance)
        scores = taylor_scores(model)
        model.zero_grad(set_to_none=True)
    if options.global_sparsity is None:
        mask_layers(model, plan, scores)
    else:
        mask_global(model, options.global_sparsity, scores)
