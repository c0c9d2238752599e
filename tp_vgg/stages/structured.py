"""`structured`: the smaller network. Rank, shrink, prove, save, fine-tune, save."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tp_vgg.data.split import Normalisation
from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.files.atomic import write_text
from tp_vgg.network.families import fold_batch_norm
from tp_vgg.network.network import Network
from tp_vgg.network.spec import Spec
from tp_vgg.pruning.calibration import recalibrate
from tp_vgg.pruning.equivalence import EQUIVALENCE_IMAGES, EquivalenceCheck
from tp_vgg.pruning.structured import prune_channels, rank, top_k
from tp_vgg.report import figures
from tp_vgg.rundir.layout import partial_of
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.defaults import finetune_recipe, structured_epochs
from tp_vgg.stages.options import StructuredOptions, StructuredRequest, StructuredTarget
from tp_vgg.stages.pruning import Pruning, pruning, work_key
from tp_vgg.stages.session import Session, stage
from tp_vgg.training.history import Epoch, history_csv

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Round:
    """One of ``--steps``: a prune, then a share of the fine-tuning."""

    target: Spec
    epochs: int
    partial: Path
    label: str
    last: bool


@stage
def structured(settings: Settings, request: StructuredRequest) -> dict[str, ModelRecord]:
    """Prune and fine-tune; leaves both structured checkpoints and their records. Returns records by model name."""
    options = request.options
    with pruning(settings, request) as job:
        work, model = job.work, job.dense
        if request.show is not None and work.ranks.is_main:
            _draw(job, options, request.show)
        teacher = fold_batch_norm(model) if options.finetune.distill else None
        trained = model.meta.get("training")
        key = work_key(settings, job.baseline.sha256, job.resolved.plan, options)
        history: tuple[Epoch, ...] = ()
        rounds = list(_rounds(job, options))
        for one in rounds:
            proved = _pruned(work, model, one.target, options)
            log.info(f"{one.label}: {proved}" if options.steps > 1 else proved)
            model.meta.update(baseline=job.baseline.sha256, key=key)
            if one.last:
                pruned = work.finish(model, "structured_pruned", notes=(proved,))
            if one.epochs:
                recipe = finetune_recipe(
                    work.settings, model.spec, one.epochs, options.finetune, trained
                )
                label = (
                    "fine-tune" if options.steps == 1 else one.label.replace("step", "fine-tune")
                )
                done = len(history)
                history += tuple(
                    replace(epoch, epoch=done + epoch.epoch)
                    for epoch in work.fit(model, recipe, one.partial, label, teacher)
                )
        records = {"baseline": job.baseline, "structured_pruned": pruned}
        if history:
            if work.ranks.is_main:
                write_text(work.run.work / "structured_history.csv", history_csv(history))
            records["structured_finetuned"] = work.finish(
                model, "structured_finetuned", notes=(proved,)
            )
        work.discard(*(one.partial for one in rounds if one.epochs))
        log.info("what this buys in time: python -m tp_vgg benchmark, with the same options")
        return records


@stage
def show_structured(settings: Settings, request: StructuredRequest) -> Path:
    """Draw what the request would remove of the layer to show; nothing is pruned. Returns the figure's path."""
    assert request.show is not None
    with pruning(settings, request) as job:
        return job.work.ranks.run_on_main(lambda: _draw(job, request.options, str(request.show)))


def between(spec: Spec, target: Spec, share: float) -> Spec:
    """The spec after ``share`` of the channels on the way from ``spec`` to ``target`` are gone."""
    widths = {
        name: width - round((width - target.prunable[name]) * share)
        for name, width in spec.prunable.items()
    }
    return spec.with_widths(widths)


def _rounds(job: Pruning[StructuredTarget], options: StructuredOptions) -> Iterator[_Round]:
    steps, epochs = options.steps, structured_epochs(job.work.settings, options)
    final = job.work.run.checkpoint("structured_finetuned", job.resolved.spec.stem)
    for step in range(1, steps + 1):
        last = step == steps
        yield _Round(
            between(job.dense.spec, job.resolved.spec, step / steps),
            epochs // steps + (epochs % steps if last else 0),
            partial_of(final, "" if last else f".step{step}"),
            f"step {step}/{steps}",
            last,
        )


def _pruned(work: Session, model: Network, target: Spec, options: StructuredOptions) -> str:
    """Shrink ``model`` in place, and repair it as asked. Returns what was proved of it."""
    work.accumulate_gradients(model, options.importance)
    images = torch.cat(
        [split.images[:EQUIVALENCE_IMAGES] for split in (work.data.val, work.data.train)]
    )[:EQUIVALENCE_IMAGES]
    normalisation = Normalisation.of(model.meta)
    shrunk = prune_channels(
        model, target, normalisation(images), options.importance, work.settings.seed
    )
    model.zero_grad(set_to_none=True)
    proved = _proof_line(shrunk.proof)
    if options.repair == "recalibrate":
        label = work.settings.bar("batch norm")
        recalibrate(model, work.data.train, normalisation, work.settings.seed, label=label)
        proved += "; then batch norm's statistics were taken anew"
    return proved


def _draw(job: Pruning[StructuredTarget], options: StructuredOptions, layer: str) -> Path:
    model, seed = job.dense, job.work.settings.seed
    job.work.accumulate_gradients(model, options.importance)
    score = rank(model, [layer], options.importance, seed)[layer]
    weights = model.get_submodule(layer).get_parameter("weight").detach().cpu().numpy()
    kept = top_k(score, job.resolved.spec.prunable[layer])
    figure = figures.removed_filters(weights, kept, score.numpy(), layer, options.importance)
    return job.draw(f"structured_{layer}", figure)


def _proof_line(proof: EquivalenceCheck) -> str:
    return f"equivalence proved on {proof.images} images in fp64: max |difference| {proof.difference:.1e} at logits up to {proof.scale:.2f}"
