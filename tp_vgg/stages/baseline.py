"""The dense model of a run directory: the one given, the one that is there, or one trained now."""

from __future__ import annotations

import copy
import logging
from dataclasses import asdict, replace
from pathlib import Path

import torch

from tp_vgg.errors import BadInput
from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.files.atomic import write_text
from tp_vgg.files.fingerprint import file_fingerprint, fingerprint
from tp_vgg.network import checkpoint, torchvision_weights
from tp_vgg.network.families import as_vgg
from tp_vgg.network.network import Network
from tp_vgg.network.torchvision_weights import imagenet_weights
from tp_vgg.network.vgg.model import VGG, build
from tp_vgg.rundir.layout import GIVEN, partial_of
from tp_vgg.stages.defaults import baseline_recipe, duration
from tp_vgg.stages.session import Session, check_classes, data_summary, load_dense
from tp_vgg.training.estimate import estimate_seconds
from tp_vgg.training.history import history_csv
from tp_vgg.training.recipe import Recipe

log = logging.getLogger(__name__)


def baseline(
    work: Session, given: Network | None, epochs: int | None = None
) -> tuple[Network, ModelRecord]:
    """The dense model: the ``given`` one of ``--checkpoint``, else the run directory's, else one trained now (for ``epochs``); with
    its record, measured again where weights or images are not those of the one there."""
    own = work.ranks.broadcast(work.run.own_baseline(work.settings))
    path = work.settings.checkpoint or own
    if path is None:
        log.info(f"no baseline in {work.run.root} yet: training it first")
        train_baseline(
            work, baseline_recipe(work.settings, work.settings.flag_spec(), epochs), "none"
        )
        path = own = work.run.checkpoint("baseline", work.settings.flag_spec().stem)
    model = given or load_dense(work.settings, path)
    check_classes(model, work.data, path)
    made = model.meta.get("training")
    if (
        given is None
        and isinstance(made, dict)
        and (epochs or made.get("epochs"), work.settings.seed)
        != (made.get("epochs"), made.get("seed"))
    ):
        log.info(
            f"{path} is kept, trained for {made.get('epochs')} epochs with seed {made.get('seed')}; for another one: `train`, or another --out"
        )
    if own is not None and path.resolve() == own.resolve():
        return model.to(work.device), _own_record(work, own, model)
    note = "checkpoint from elsewhere: it may have seen the val images, so quote test"
    return model.to(work.device), _current_record(work, path, GIVEN, (note,))


def _own_record(work: Session, path: Path, model: Network) -> ModelRecord:
    trained_on = model.meta.get("data")
    if trained_on in (None, data_summary(work.data)):
        return _current_record(work, path, "baseline", ())
    note = f"the baseline was trained with other --limit options or images ({trained_on})"
    log.info(note)
    return _current_record(work, path, "baseline", (note,))


def _current_record(work: Session, path: Path, name: str, notes: tuple[str, ...]) -> ModelRecord:
    """The record of ``name``, measured again where it is not of these weights and images."""

    def current() -> ModelRecord:
        record = work.contents.record(name)
        digest = work.contents.sha256(path)
        if record is None or record.sha256 != digest or record.data != data_summary(work.data):
            made = record.command if record is not None and record.sha256 == digest else None
            record = work.record(path, name, notes, command=made)
        return record

    return work.ranks.run_on_main(current)


def train_baseline(work: Session, recipe: Recipe, weights: str) -> ModelRecord:
    """Train the dense model (or do nothing where it was trained with the same settings before)."""
    model = _start(work, weights)
    start = file_fingerprint(Path(weights)) if Path(weights).is_file() else weights
    key = fingerprint(
        asdict(recipe), model.spec.to_dict(), data_summary(work.data), start, str(work.precision)
    )
    path = work.run.checkpoint("baseline", model.spec.stem)
    partial = partial_of(path)
    if work.ranks.broadcast(_key_of(path) == key):
        log.info(f"{path} was trained with these settings before; nothing to do")
        work.discard(partial)
        return _current_record(work, path, "baseline", ())
    model.to(work.device)
    seconds = estimate_seconds(model, work.training(model, recipe))
    log.info(
        f"training {model.spec.arch} ({model.spec.head} head) for {recipe.epochs} epochs on {len(work.data.train)} images"
        f" of {work.data.name}: about {duration(seconds)} here ({work.device.type})"
    )
    history = work.fit(model, recipe, partial, "train")
    if work.ranks.is_main:
        write_text(work.run.root / "history.csv", history_csv(history))
    model.meta.update(key=key, data=data_summary(work.data))
    record = work.finish(model, "baseline")
    work.discard(partial)
    return record


def _start(work: Session, weights: str) -> Network:
    spec = replace(work.settings.flag_spec(), num_classes=len(work.data.classes))
    torch.manual_seed(work.settings.seed)
    model = build(spec)
    model.meta = {
        "mean": list(work.data.normalisation.mean),
        "std": list(work.data.normalisation.std),
        "classes": list(work.data.classes),
        "dataset": work.data.name,
    }
    if weights == "none":
        return model
    if weights == "imagenet":
        state, meta = imagenet_weights(spec.arch)
        if spec.head == "linear":
            state = {n: v for n, v in state.items() if n.startswith("features")} | _fresh_head(
                model
            )
        source = as_vgg(torchvision_weights.from_state_dict(state))
    else:
        source = as_vgg(checkpoint.load(weights))
        work.settings.check_spec(source.spec, weights)
        meta = {
            "mean": source.meta["mean"],
            "std": source.meta["std"],
            "source": Path(weights).name,
        }
    if source.spec.num_classes != spec.num_classes or weights == "imagenet":
        source = _with_new_head(source, model)
    source.kept = {}  # whatever it was cut from, it is the dense model now
    source.meta = {
        **model.meta,
        **meta,
        "notes": [n for n in source.meta.get("notes", []) if n.startswith("head folded")],
    }
    return source


def _key_of(path: Path) -> str | None:
    """The key in a checkpoint's meta; ``None`` for no file, or one that can't be loaded."""
    try:
        key = checkpoint.load(path).meta.get("key")
    except BadInput:
        return None
    return key if isinstance(key, str) else None


def _fresh_head(model: VGG) -> dict[str, torch.Tensor]:
    return {n: v for n, v in model.state_dict().items() if n.startswith("classifier")}


def _with_new_head(source: VGG, fresh: VGG) -> VGG:
    """``source`` with its last linear replaced by the fresh one, for another number of classes."""
    model = copy.deepcopy(fresh)
    last = model.spec.linear_names[-1]
    state = {n: v for n, v in source.state_dict().items() if not n.startswith(f"{last}.")}
    if source.spec.with_widths({}) != replace(fresh.spec, num_classes=source.spec.num_classes):
        raise BadInput(
            f"--weights: holds widths other than {fresh.spec.arch}'s; give a full-width file"
        )
    model.load_state_dict(state, strict=False)
    return model
