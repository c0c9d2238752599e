"""`unstructured`: zeros in the weights. Mask, fine-tune under the masks, make them permanent, save."""

from __future__ import annotations

import copy
import logging
from dataclasses import asdict
from pathlib import Path

from tp_vgg.data.split import Normalisation
from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.files.atomic import write_text
from tp_vgg.files.fingerprint import fingerprint
from tp_vgg.network.masks import is_masked
from tp_vgg.network.vgg.fold import fold_batch_norm
from tp_vgg.network.vgg.model import VGG
from tp_vgg.pruning.gradients import accumulate_gradients, taylor_scores
from tp_vgg.pruning.gradual import Gradual
from tp_vgg.pruning.ratios import Plan
from tp_vgg.pruning.unstructured import mask_global, mask_layers, remove_masks
from tp_vgg.report import figures
from tp_vgg.rundir.layout import partial_of
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.baseline import baseline as baseline_of
from tp_vgg.stages.defaults import finetune_recipe
from tp_vgg.stages.options import PlanFor, UnstructuredOptions, check_unstructured
from tp_vgg.stages.outputs import keep_figure
from tp_vgg.stages.session import Session, load_given, ranked, session, stage
from tp_vgg.training.history import history_csv

log = logging.getLogger(__name__)


@stage
def unstructured(
    settings: Settings, plan_for: PlanFor, options: UnstructuredOptions, show: str | None = None
) -> dict[str, ModelRecord]:
    """Mask and fine-tune; leaves the checkpoint with exact zeros and its record. Returns records by model name.

    ``show``: a layer to draw before and after masking, on the way.
    """
    given = _given(settings, plan_for, options, show)
    with ranked(settings) as (settings, ranks), session(settings, given, ranks) as work:
        model, baseline = baseline_of(work, given)
        plan = plan_for(model.spec)
        check_unstructured(model.spec, plan, options, show)
        path = work.run.checkpoint("unstructured", model.spec.depth)
        tune = options.finetune
        teacher = fold_batch_norm(model) if tune.distill and tune.epochs else None
        if show is not None and ranks.leads:
            masked = copy.deepcopy(model)
            _mask(work, masked, plan, options)
            _draw(work, masked, show)
        masking = (
            Gradual(None if options.global_sparsity else plan, options.global_sparsity) if options.gradual else None
        )
        if masking is not None:
            masking.begin(model)
        else:
            _mask(work, model, plan, options)
        partial, epochs = partial_of(path), work.run.work / "unstructured_history.csv"
        if tune.epochs:
            recipe = finetune_recipe(settings, model.spec, tune.epochs, tune, model.meta.get("training"))
            history = work.fit(model, recipe, partial, "fine-tune", teacher, masking)
            if ranks.leads:
                write_text(epochs, history_csv(history))
        else:
            epochs.unlink(missing_ok=True)
        remove_masks(model)
        key = work_key(settings, baseline.sha256, plan, options)
        model.meta = {**model.meta, "baseline": baseline.sha256, "key": key}
        record = work.finish(model, "unstructured")
        shares = ", ".join(f"{name} {share:.1%}" for name, share in record.sparsity.items())
        log.info(f"zeros by layer: {shares}; {record.nonzero:,} of {record.params:,} parameters are not zero")
        work.discard(partial)
        return {"baseline": baseline, "unstructured": record}


def work_key(settings: Settings, baseline: str, plan: Plan, options: UnstructuredOptions) -> str:
    """What the record has as its key, where the network was made of the dense checkpoint ``baseline`` (SHA-256) in this very way."""
    return fingerprint(baseline, dict(plan.values), asdict(options), settings.seed)


@stage
def show_unstructured(settings: Settings, plan_for: PlanFor, options: UnstructuredOptions, layer: str) -> Path:
    """Draw what the plan would zero of one layer; nothing is saved. Returns the figure's path."""
    with session(settings, given := _given(settings, plan_for, options, layer)) as work:
        model, _ = baseline_of(work, given)
        check_unstructured(model.spec, plan_for(model.spec), options, layer)
        _mask(work, model, plan_for(model.spec), options)
        return _draw(work, model, layer)


def _given(settings: Settings, plan_for: PlanFor, options: UnstructuredOptions, show: str | None) -> VGG | None:
    """The model of ``--checkpoint``; a plan that does not fit it is refused before anything is written."""
    model = load_given(settings)
    if model is not None:
        check_unstructured(model.spec, plan_for(model.spec), options, show)
    return model


def _draw(work: Session, masked: VGG, layer: str) -> Path:
    module = masked.get_submodule(layer)
    names = ("weight_orig", "weight") if is_masked(module) else ("weight", "weight")
    before, after = (getattr(module, name).detach().cpu().numpy() for name in names)
    figure = figures.masked_weights(before, after, layer)
    path = keep_figure(work.settings, work.run, f"unstructured_{layer}", figure)
    log.info(f"drew {path}")
    return path


def _mask(work: Session, model: VGG, plan: Plan, options: UnstructuredOptions) -> None:
    scores = None
    if options.importance == "taylor":
        accumulate_gradients(model, work.data.train, Normalisation.of(model.meta), label=work.settings.bar("gradients"))
        scores = taylor_scores(model)
        model.zero_grad(set_to_none=True)
    if options.global_sparsity is None:
        mask_layers(model, plan, scores)
    else:
        mask_global(model, options.global_sparsity, scores)
