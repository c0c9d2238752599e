"""`structured`: the smaller network. Rank, shrink, prove, save, fine-tune, save."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path

import torch

from tp_vgg.data.split import Normalisation
from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.files.atomic import write_text
from tp_vgg.files.fingerprint import fingerprint
from tp_vgg.network.vgg.fold import fold_batch_norm
from tp_vgg.network.vgg.model import VGG
from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.pruning.calibration import recalibrate
from tp_vgg.pruning.criteria import CRITERIA
from tp_vgg.pruning.equivalence import PROOF_IMAGES, Proof
from tp_vgg.pruning.gradients import accumulate_gradients
from tp_vgg.pruning.ratios import Plan
from tp_vgg.pruning.structured import Shrunk, rank, shrink, top
from tp_vgg.report import figures
from tp_vgg.rundir.layout import partial_of
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.baseline import baseline as baseline_of
from tp_vgg.stages.defaults import default_finetune_epochs, finetune_recipe
from tp_vgg.stages.options import PlanFor, StructuredOptions, structured_target
from tp_vgg.stages.outputs import keep_figure
from tp_vgg.stages.session import Session, load_given, ranked, session, stage
from tp_vgg.training.history import Epoch, history_csv

log = logging.getLogger(__name__)


@stage
def structured(
    settings: Settings, plan_for: PlanFor, options: StructuredOptions, show: str | None = None
) -> dict[str, ModelRecord]:
    """Prune and fine-tune; leaves both structured checkpoints and their records. Returns records by model name.

    ``show``: a layer to draw before and after, on the way.
    """
    given = _given(settings, plan_for, options, show)
    with ranked(settings) as (settings, ranks), session(settings, given, ranks) as work:
        dense, baseline = baseline_of(work, given)
        plan = plan_for(dense.spec)
        target = structured_target(dense.spec, plan, options, show)
        if show is not None and ranks.leads:
            _draw(work, dense, target, options, show)
        epochs = _epochs(settings, options)
        made = {"baseline": baseline.sha256, "key": work_key(settings, baseline.sha256, plan, options)}
        final = work.run.checkpoint("structured_finetuned", target.depth)
        partials: list[Path] = []
        teacher = fold_batch_norm(dense) if options.finetune.distill else None
        trained = dense.meta.get("training")
        model, full = dense, dense.spec
        history: tuple[Epoch, ...] = ()
        for step in range(1, options.steps + 1):
            last = step == options.steps
            shrunk = _shrink(work, model, between(full, target, step / options.steps), options.importance)
            proved = _proof_line(shrunk.proof)
            if options.recalibrate:
                label = settings.bar("batch norm")
                recalibrate(model, work.data.train, Normalisation.of(model.meta), settings.seed, label=label)
                proved += "; then batch norm's statistics were taken anew"
            log.info(f"step {step}/{options.steps}: {proved}" if options.steps > 1 else proved)
            model.meta.update(made)
            if last:
                pruned = work.finish(model, "structured_pruned", notes=(proved,))
            share = epochs // options.steps + (epochs % options.steps if last else 0)
            if share:
                partials.append(partial_of(final, "" if last else f".step{step}"))
                recipe = finetune_recipe(settings, model.spec, share, options.finetune, trained)
                label = "fine-tune" if options.steps == 1 else f"fine-tune {step}/{options.steps}"
                done = len(history)
                history += tuple(
                    replace(epoch, epoch=done + epoch.epoch)
                    for epoch in work.fit(model, recipe, partials[-1], label, teacher)
                )
        records = {"baseline": baseline, "structured_pruned": pruned}
        if epochs:
            if ranks.leads:
                write_text(work.run.work / "structured_history.csv", history_csv(history))
            records["structured_finetuned"] = work.finish(model, "structured_finetuned", notes=(proved,))
        work.discard(*partials)
        log.info("what this buys in time: python -m tp_vgg benchmark, with the same options")
        return records


def _epochs(settings: Settings, options: StructuredOptions) -> int:
    given = options.finetune.epochs
    return max(default_finetune_epochs(settings), options.steps) if given is None else given


def work_key(settings: Settings, baseline: str, plan: Plan, options: StructuredOptions) -> str:
    """What the records of both networks have as their key, where they were made of the dense checkpoint ``baseline`` (SHA-256) in this very way."""
    return fingerprint(baseline, dict(plan.values), asdict(options), settings.seed, _epochs(settings, options))


def between(spec: VGGSpec, target: VGGSpec, share: float) -> VGGSpec:
    """The spec after ``share`` of the channels on the way from ``spec`` to ``target`` are gone."""
    widths = {name: width - round((width - target.prunable[name]) * share) for name, width in spec.prunable.items()}
    return spec.with_widths(widths)


@stage
def show_structured(settings: Settings, plan_for: PlanFor, options: StructuredOptions, layer: str) -> Path:
    """Draw what the plan would remove of one layer; nothing is pruned. Returns the figure's path."""
    with session(settings, given := _given(settings, plan_for, options, layer)) as work:
        dense, _ = baseline_of(work, given)
        return _draw(work, dense, structured_target(dense.spec, plan_for(dense.spec), options, layer), options, layer)


def _given(settings: Settings, plan_for: PlanFor, options: StructuredOptions, show: str | None) -> VGG | None:
    """The model of ``--checkpoint``; a plan that does not fit it is refused before anything is written."""
    model = load_given(settings)
    if model is not None:
        structured_target(model.spec, plan_for(model.spec), options, show)
    return model


def _draw(work: Session, model: VGG, target: VGGSpec, options: StructuredOptions, layer: str) -> Path:
    if CRITERIA[options.importance].needs_gradients:
        _accumulate(work, model, options.importance)
    score = rank(model, [layer], options.importance, work.settings.seed)[layer]
    weights = model.get_submodule(layer).get_parameter("weight").detach().cpu().numpy()
    figure = figures.removed_filters(
        weights, top(score, target.prunable[layer]), score.numpy(), layer, options.importance
    )
    path = keep_figure(work.settings, work.run, f"structured_{layer}", figure)
    log.info(f"drew {path}")
    return path


def _shrink(work: Session, model: VGG, target: VGGSpec, importance: str) -> Shrunk:
    if CRITERIA[importance].needs_gradients:
        _accumulate(work, model, importance)
    images = torch.cat([split.images[:PROOF_IMAGES] for split in (work.data.val, work.data.train)])[:PROOF_IMAGES]
    shrunk = shrink(model, target, Normalisation.of(model.meta)(images), importance, work.settings.seed)
    model.zero_grad(set_to_none=True)
    return shrunk


def _accumulate(work: Session, model: VGG, importance: str) -> None:
    accumulate_gradients(
        model,
        work.data.train,
        Normalisation.of(model.meta),
        squared=CRITERIA[importance].squared,
        label=work.settings.bar("gradients"),
    )


def _proof_line(proof: Proof) -> str:
    return f"equivalence proved on {proof.images} images in fp64: max |difference| {proof.difference:.1e} at logits up to {proof.scale:.2f}"
