"""`unstructured`: zeros in the weights. Mask, fine-tune under the masks, make them permanent, save."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from tp_vgg import plots
from tp_vgg.model import VGG
from tp_vgg.ratios import Plan
from tp_vgg.records import ModelRecord
from tp_vgg.stages.options import PlanFor, UnstructuredOptions, check_unstructured
from tp_vgg.stages.recipes import finetune_recipe
from tp_vgg.stages.session import Session, load_dense, session
from tp_vgg.stages.settings import Settings, partial_of
from tp_vgg.storage import fingerprint, write_text
from tp_vgg.unstructured import is_masked, mask_global, mask_layers, remove_masks


def unstructured(
    settings: Settings, plan_for: PlanFor, options: UnstructuredOptions, show: str | None = None
) -> dict[str, ModelRecord]:
    """Mask and fine-tune; leaves the checkpoint with exact zeros and its record. Returns records by model name.

    ``show``: a layer to draw before and after masking, on the way.
    """
    _check_checkpoint(settings, plan_for, show)
    with session(settings) as work:
        model, baseline = work.baseline()
        plan = plan_for(model.spec)
        check_unstructured(model.spec, plan, show)
        path = work.run.checkpoint("unstructured", model.spec.depth)
        key = fingerprint(baseline.sha256, dict(plan.values), asdict(options), settings.seed)
        _mask(model, plan, options)
        if show is not None:
            _draw(work, model, show)
        partial = partial_of(path)
        history = ""
        if options.finetune_epochs:
            recipe = finetune_recipe(settings, model.spec, options.finetune_epochs, options.lr, options.batch_size)
            history = work.fit(model, recipe, partial, "fine-tune")
        remove_masks(model)
        record = work.finish(model, "unstructured", baseline=baseline.sha256, key=key)
        if history:
            write_text(work.run.work / "unstructured_history.csv", history)
        partial.unlink(missing_ok=True)
        return {"baseline": baseline, "unstructured": record}


def show_unstructured(settings: Settings, plan_for: PlanFor, options: UnstructuredOptions, layer: str) -> Path:
    """Draw what the plan would zero of one layer; nothing is saved. Returns the figure's path."""
    _check_checkpoint(settings, plan_for, layer)
    with session(settings) as work:
        model, _ = work.baseline()
        check_unstructured(model.spec, plan_for(model.spec), layer)
        _mask(model, plan_for(model.spec), options)
        return _draw(work, model, layer)


def _check_checkpoint(settings: Settings, plan_for: PlanFor, show: str | None) -> None:
    """A plan that does not fit ``--checkpoint`` is refused before anything is read or written."""
    if settings.checkpoint is not None:
        spec = load_dense(settings, settings.checkpoint).spec
        check_unstructured(spec, plan_for(spec), show)


def _draw(work: Session, masked: VGG, layer: str) -> Path:
    module = masked.get_submodule(layer)
    names = ("weight_orig", "weight") if is_masked(module) else ("weight", "weight")
    before, after = (getattr(module, name).detach().cpu().numpy() for name in names)
    path = work.run.plot(f"unstructured_{layer}")
    plots.save_png(plots.masked_weights(before, after, layer), path)
    work.settings.note(f"drew {path}")
    return path


def _mask(model: VGG, plan: Plan, options: UnstructuredOptions) -> None:
    if options.global_sparsity is None:
        mask_layers(model, plan)
    else:
        mask_global(model, options.global_sparsity)
