"""The dense model of a run directory is one given by the user, an earlier one, or trained now."""

from __future__ import annotations

import copy
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from tp_vgg.errors import BadInput
from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.files.atomic import write_json
from tp_vgg.files.fingerprint import file_fingerprint, fingerprint
from tp_vgg.network import checkpoint, torchvision_weights
from tp_vgg.network.families import as_vgg
from tp_vgg.network.network import Network
from tp_vgg.network.torchvision_weights import imagenet_weights
from tp_vgg.network.vgg.model import VGG, build
from tp_vgg.rundir.layout import GIVEN, MODELS, partial_of
from tp_vgg.stages.defaults import baseline_recipe, duration
from tp_vgg.stages.given import check_fits, load_model
from tp_vgg.stages.measure import data_summary, measured
from tp_vgg.stages.results import deleted_unless_published, former_models
from tp_vgg.stages.session import Session
from tp_vgg.training.estimate import estimate_seconds
from tp_vgg.training.history import history_csv
from tp_vgg.training.recipe import Recipe

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dense:
    """A Dense is the dense model of a stage, which need not have been measured."""

    model: Network
    """The network, on the session's device."""
    path: Path
    name: str
    """Name of its record."""
    notes: tuple[str, ...]
    """Notes for its record."""

    def measured(self, session: Session) -> ModelRecord:
        """Return its record; measure it if there is none of these weights and test images."""
        return _current_record(session, self.path, self.name, self.notes)


def dense_model(session: Session, given_model: Network | None, epochs: int | None = None) -> Dense:
    """Return the dense model, which is not measured unless it has to be trained.

    It is ``given_model`` (that of ``--checkpoint``), else the run directory's baseline, else one
    that is trained now, for ``epochs`` (``None``: the default). Raises :class:`BadInput` if its
    file can't be read or its classes are not those of the data.
    """
    own_path = session.ranks.broadcast(session.run.own_baseline(session.settings))
    path = session.settings.checkpoint or own_path
    if path is None:
        session.settings.begin_work()
        log.info(f"no baseline in {session.run.root} yet: training it first")
        train_baseline(
            session, baseline_recipe(session.settings, session.settings.flag_spec(), epochs), "none"
        )
        path = own_path = session.run.checkpoint(MODELS[0], session.settings.flag_spec().stem)
    model = given_model or load_model(session.settings, path)
    check_fits(model, session.data, path)
    recipe = model.meta.get("training")
    if (
        given_model is None
        and isinstance(recipe, dict)
        and (epochs or recipe.get("epochs"), session.settings.seed)
        != (recipe.get("epochs"), recipe.get("seed"))
    ):
        log.info(
            f"{path} is kept, trained for {recipe.get('epochs')} epochs with seed"
            f" {recipe.get('seed')}; to get another one, run `train` or give another --out"
        )
    model = model.to(session.device)
    if own_path is not None and path.resolve() == own_path.resolve():
        return Dense(model, own_path, MODELS[0], _other_images(session, model))
    note = (
        "checkpoint from elsewhere: it may have been trained on the val images,"
        " so quote its test accuracy"
    )
    return Dense(model, path, GIVEN, (note,))


def baseline(
    session: Session, given_model: Network | None, epochs: int | None = None
) -> tuple[Network, ModelRecord]:
    """Return :func:`dense_model` and its record; it is measured if there is none."""
    dense = dense_model(session, given_model, epochs)
    return dense.model, dense.measured(session)


def _other_images(session: Session, model: Network) -> tuple[str, ...]:
    """Return a note, which is logged too, if the baseline was trained with other images."""
    trained_on = model.meta.get("data")
    if not isinstance(trained_on, dict) or trained_on == data_summary(session.data):
        return ()
    now = data_summary(session.data)
    differences = ", ".join(
        f"{name} {trained_on.get(name)} then, {value} now"
        for name, value in now.items()
        if trained_on.get(name) != value and name != "fingerprint"
    )
    note = f"the baseline was trained with other images ({differences or 'of the same number'})"
    log.info(note)
    return (note,)


def _current_record(session: Session, path: Path, name: str, notes: tuple[str, ...]) -> ModelRecord:
    """Return the record of the dense model at ``path``; measure it if there is none.

    ``name``: that of its record. A record is one of these weights, test images and normalisation.
    One that is of others stays as it is, and the new one is written beside it, unless the file of
    the first one is gone or was replaced.
    """

    def current() -> ModelRecord:
        data = session.data
        digest = session.contents.sha256(path)
        images = (data.name, data.fingerprint, len(data.test))
        numbers = session.settings.normalisation_record()
        contents = session.contents
        records = [
            record
            for record in contents.dense_records
            if not contents.file_fault(record) and not _is_outdated(record)
        ]
        for record in records:
            if (record.sha256, record.test_images, record.normalisation) == (
                digest,
                images,
                numbers,
            ):
                return record
        session.settings.begin_work()
        made_by = [record.command for record in records if record.sha256 == digest]
        record = measured(session, path, notes, as_saved=True)
        if made_by:
            record = replace(record, command=made_by[0])
        target, first = session.run.record_path(name), contents.record(name)
        in_use = first is not None and not contents.file_fault(first) and not _is_outdated(first)
        if in_use or (name == MODELS[0] and session.settings.tag):
            key = fingerprint(digest, list(images), numbers)
            target = session.run.another_record_path(name, key)
        write_json(target, record.to_dict())
        session.peak.reset()
        return record

    return session.ranks.run_on_main(current)


def _normalisation_parts(session: Session) -> list[object]:
    """Return what ``--mean`` and ``--std`` add to the key of a training; nothing if by default."""
    mean, std = session.settings.mean, session.settings.std
    default = session.data.normalisation
    if mean is None or std is None or (mean, std) == (default.mean, default.std):
        return []
    return [[*mean, *std]]


def _is_outdated(record: ModelRecord) -> bool:
    """Return True for a record of a foreign file from before its size was told from its form."""
    return record.file_bytes is None and any(
        note.startswith("plain state dict:") for note in record.notes
    )


def train_baseline(session: Session, recipe: Recipe, weights: str) -> ModelRecord:
    """Train the dense model, save and measure it, and return its record.

    ``weights``: ``none`` (random initial weights), ``imagenet``, or the path of a file. If the run
    directory's baseline was trained with the same settings, images and initial weights before,
    nothing is trained. Raises :class:`BadInput` if the file can't be read or does not fit, and
    :class:`~tp_vgg.errors.WorkFailed` if the training fails.
    """
    model = _initial_model(session, weights)
    initial_weights = file_fingerprint(Path(weights)) if Path(weights).is_file() else weights
    key = fingerprint(
        asdict(recipe),
        model.spec.to_dict(),
        data_summary(session.data),
        initial_weights,
        str(session.precision),
        *_normalisation_parts(session),
    )
    path = session.run.checkpoint(MODELS[0], model.spec.stem)
    partial = partial_of(path)
    if session.ranks.broadcast(_key_of(path) == key):
        log.info(f"{path} was trained with these settings before; nothing to do")
        session.discard(partial)
        return _current_record(session, path, MODELS[0], ())
    data = data_summary(session.data)
    former = session.ranks.run_on_main(
        lambda: former_models(session.contents, MODELS[:1], model.spec.stem, key, data)
    )
    if former is not None and session.settings.tag is not None:
        raise BadInput(
            f"--tag: {session.run.root} holds a dense model with other settings, which all tags"
            " share; leave out --tag to train another one, or give another --out"
        )
    model.to(session.device)
    seconds = estimate_seconds(model, session.training(model, recipe))
    log.info(
        f"training {model.spec.arch} ({model.spec.head} head) for"
        f" {recipe.epochs} epoch{'s' * (recipe.epochs != 1)} on"
        f" {len(session.data.train)} images of {session.data.name}:"
        f" about {duration(seconds)} here ({session.device.type})"
    )
    history = session.fit(model, recipe, partial, "train")
    model.meta.update(key=key, data=data)
    prepared = session.prepare(model, MODELS[0])
    with deleted_unless_published([prepared], session.ranks):
        session.publish([prepared], former, history_csv(history))
    session.discard(partial)
    return prepared.record


def _initial_model(session: Session, weights: str) -> Network:
    spec = replace(session.settings.flag_spec(), num_classes=len(session.data.classes))
    torch.manual_seed(session.settings.seed)
    model = build(spec)
    model.meta = {
        "mean": list(session.settings.mean or session.data.normalisation.mean),
        "std": list(session.settings.std or session.data.normalisation.std),
        "classes": list(session.data.classes),
        "dataset": session.data.name,
    }
    if weights == "none":
        return model
    if weights == "imagenet":
        state, meta = imagenet_weights(spec.arch)
        if spec.head == "linear":
            state = {n: v for n, v in state.items() if n.startswith("features")} | _fresh_head(
                model
            )
        source = as_vgg(torchvision_weights.from_state_dict(state, image_size=spec.image_size))
    else:
        source = as_vgg(load_model(session.settings, Path(weights)))
        meta = {
            "mean": source.meta["mean"],
            "std": source.meta["std"],
            "source": Path(weights).name,
        }
    if source.spec.num_classes != spec.num_classes or weights == "imagenet":
        source = _with_new_head(source, model)
    source.kept = {}  # from here on it is the dense model, even if it was pruned before
    source.meta = {
        **model.meta,
        **meta,
        "notes": [
            note
            for note in source.meta.get("notes", [])
            if weights != "imagenet" or note.startswith("head folded")
        ],
    }
    return source


def _key_of(path: Path) -> str | None:
    """Return the key in a checkpoint's meta; ``None`` if no checkpoint or key can be read."""
    try:
        key = checkpoint.load(path).meta.get("key")
    except BadInput:
        return None
    return key if isinstance(key, str) else None


def _fresh_head(model: VGG) -> dict[str, torch.Tensor]:
    return {n: v for n, v in model.state_dict().items() if n.startswith("classifier")}


def _with_new_head(source: VGG, fresh: VGG) -> VGG:
    """Return ``source`` with the last linear layer of ``fresh``, for other classes.

    Raises :class:`BadInput` if their widths differ.
    """
    model = copy.deepcopy(fresh)
    last = model.spec.linear_names[-1]
    state = {n: v for n, v in source.state_dict().items() if not n.startswith(f"{last}.")}
    if source.spec.with_widths({}) != replace(fresh.spec, num_classes=source.spec.num_classes):
        raise BadInput(
            f"--weights: holds widths other than {fresh.spec.arch}'s; give a full-width file"
        )
    model.load_state_dict(state, strict=False)
    return model
