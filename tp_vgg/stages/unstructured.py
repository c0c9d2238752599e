"""`unstructured`: zeros in the weights. Mask, fine-tune under the masks, make them permanent, save."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.files.atomic import write_text
from tp_vgg.network.families import fold_batch_norm
from tp_vgg.network.masks import is_masked
from tp_vgg.network.network import Network
from tp_vgg.pruning.gradients import taylor_scores
from tp_vgg.pruning.gradual import Gradual
from tp_vgg.pruning.ratios import Plan
from tp_vgg.pruning.unstructured import mask_global, mask_layers, remove_masks
from tp_vgg.report import figures
from tp_vgg.rundir.layout import partial_of
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.defaults import finetune_recipe
from tp_vgg.stages.options import UnstructuredOptions, UnstructuredRequest
from tp_vgg.stages.pruning import Pruning, pruning, work_key
from tp_vgg.stages.session import Session, stage
from tp_vgg.training.history import history_csv

log = logging.getLogger(__name__)


@stage
def unstructured(settings: Settings, request: UnstructuredRequest) -> dict[str, ModelRecord]:
    """Mask and fine-tune; leaves the checkpoint with exact zeros and its record. Returns records by model name."""
    options = request.options
    with pruning(settings, request) as job:
        work, model = job.work, job.dense
        tune = options.finetune
        teacher = fold_batch_norm(model) if tune.distill and tune.epochs else None
        if request.show is not None and work.ranks.is_main:
            masked = copy.deepcopy(model)
            _mask(work, masked, job.resolved, options)
            _draw(job, masked, request.show)
        masking = _gradual(job.resolved, options)
        if masking is not None:
            masking.begin(model)
        else:
            _mask(work, model, job.resolved, options)
        path = work.run.checkpoint("unstructured", model.spec.stem)
        partial, epochs = partial_of(path), work.run.work / "unstructured_history.csv"
        if tune.epochs:
            recipe = finetune_recipe(
                work.settings, model.spec, tune.epochs, tune, model.meta.get("training")
            )
            history = work.fit(model, recipe, partial, "fine-tune", teacher, masking)
            if work.ranks.is_main:
                write_text(epochs, history_csv(history))
        else:
            epochs.unlink(missing_ok=True)
        remove_masks(model)
        key = work_key(settings, job.baseline.sha256, job.resolved, options)
        model.meta = {**model.meta, "baseline": job.baseline.sha256, "key": key}
        record = work.finish(model, "unstructured")
        shares = ", ".join(f"{name} {share:.1%}" for name, share in record.sparsity.items())
        log.info(
            f"zeros by layer: {shares}; {record.nonzero:,} of {record.params:,} parameters are not zero"
        )
        work.discard(partial)
        return {"baseline": job.baseline, "unstructured": record}


@stage
def show_unstructured(settings: Settings, request: UnstructuredRequest) -> Path:
    """Draw what the request would zero of the layer to show; nothing is saved. Returns the figure's path."""
    assert request.show is not None
    with pruning(settings, request) as job:
        _mask(job.work, job.dense, job.resolved, request.options)
        return job.work.ranks.run_on_main(lambda: _draw(job, job.dense, str(request.show)))


def _gradual(plan: Plan, options: UnstructuredOptions) -> Gradual | None:
    if not options.gradual:
        return None
    return Gradual(None if options.global_sparsity else plan, options.global_sparsity)


def _draw(job: Pruning[Plan], masked: Network, layer: str) -> Path:
    module = masked.get_submodule(layer)
    names = ("weight_orig", "weight") if is_masked(module) else ("weight", "weight")
    before, after = (getattr(module, name).detach().cpu().numpy() for name in names)
    return job.draw(f"unstructured_{layer}", figures.masked_weights(before, after, layer))


def _mask(work: Session, model: Network, plan: Plan, options: UnstructuredOptions) -> None:
    scores = None
    if options.importance == "taylor":
        work.accumulate_gradients(model, options.importance)
        scores = taylor_scores(model)
        model.zero_grad(set_to_none=True)
    if options.global_sparsity is None:
        mask_layers(model, plan, scores)
    else:
        mask_global(model, options.global_sparsity, scores)
