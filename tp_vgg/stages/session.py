"""What a working stage shares with the others: the data on the device, the baseline, measuring and saving a model."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

from tp_vgg import checkpoint
from tp_vgg.data import DataSet, Normalisation, load_data
from tp_vgg.device import PeakMemory, environment, pick_device, pick_precision, release_memory
from tp_vgg.errors import BadInput, WorkFailed
from tp_vgg.evaluate import accuracy
from tp_vgg.model import VGG, build, imagenet_weights
from tp_vgg.ranks import ALONE, Ranks
from tp_vgg.records import Epoch, ModelRecord, history_csv
from tp_vgg.stages.recipes import baseline_recipe, duration
from tp_vgg.stages.settings import GIVEN, MODELS, RunDir, Settings, partial_of
from tp_vgg.storage import file_fingerprint, fingerprint, locked, rename, write_json, write_text
from tp_vgg.train import Recipe, estimate_seconds, fit
from tp_vgg.unstructured import count_nonzero, layer_sparsity

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Session:
    """One command at work in a run directory that it has locked."""

    settings: Settings
    run: RunDir
    device: torch.device
    precision: torch.dtype
    data: DataSet
    peak: PeakMemory

    def finish(self, model: VGG, name: str, *, notes: tuple[str, ...] = ()) -> ModelRecord:
        """Save ``model``, reload it, check that it gives the same logits, give it its final name, measure and record it."""
        path = self.run.checkpoint(name, model.spec.depth)
        unchecked = partial_of(path, ".unchecked")
        checkpoint.save(model, unchecked)
        try:
            self._check_reloaded(model, unchecked)
            rename(unchecked, path)
        finally:
            unchecked.unlink(missing_ok=True)
        return self._record(path, name, notes)

    def _record(self, path: Path, name: str, notes: tuple[str, ...]) -> ModelRecord:
        record = self.measured(path, notes)
        write_json(self.run.record_path(name), record.to_dict())
        self.peak.reset()
        return record

    def measured(self, path: Path, notes: tuple[str, ...] = ()) -> ModelRecord:
        """Accuracy, size and cost of the checkpoint at ``path``, as read back from the disk."""
        model = checkpoint.load(path).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        normalisation = Normalisation.of(model.meta)
        return ModelRecord(
            checkpoint=os.path.relpath(path.resolve(), self.run.root.resolve()),
            sha256=file_fingerprint(path),
            baseline=model.meta.get("baseline"),
            key=model.meta.get("key", ""),
            val=accuracy(model, self.data.val, normalisation),
            test=accuracy(model, self.data.test, normalisation),
            params=model.spec.params(),
            nonzero=count_nonzero(model),
            macs=model.spec.macs(),
            bytes=path.stat().st_size,
            spec=model.spec.to_dict(),
            sparsity=dict(layer_sparsity(model)),
            data=data_summary(self.data),
            environment=environment(self.device),
            peak_bytes=self.peak.bytes(),
            notes=(*model.meta.get("notes", ()), *notes),
        )

    def _check_reloaded(self, model: VGG, path: Path) -> None:
        """On the CPU, in one memory layout, so that the same weights give the same bits."""
        images = Normalisation.of(model.meta)(self.data.val.images[:16].cpu())
        reference = copy.deepcopy(model).cpu().to(memory_format=torch.channels_last).eval()
        found = checkpoint.load(path).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            same = torch.equal(reference(images), found(images))
        if not same:
            raise WorkFailed(f"{path}: reloaded, it gives other logits than the model that was saved; removed")

    def fit(
        self, model: VGG, recipe: Recipe, partial: Path, label: str, teacher: VGG | None = None
    ) -> tuple[Epoch, ...]:
        """:func:`tp_vgg.train.fit` with this session's data; notes the recipe in ``model.meta``. Returns its epochs."""
        history = fit(
            model,
            self.data,
            recipe,
            normalisation=Normalisation.of(model.meta),
            precision=self.precision,
            teacher=teacher,
            partial=partial,
            label=label,
            quiet=self.settings.quiet,
        )
        precision = str(self.precision).removeprefix("torch.")
        model.meta = {**model.meta, "training": {**asdict(recipe), "precision": precision}}
        return tuple(history)

    def baseline(self, given: VGG | None) -> tuple[VGG, ModelRecord]:
        """The dense model: the ``given`` one of ``--checkpoint``, else the run directory's, else one trained now; with
        its record, measured again where weights or images are not those of the one there."""
        own = self.run.own_baseline(self.settings)
        path = self.settings.checkpoint or own
        if path is None:
            self.settings.note(f"no baseline in {self.run.root} yet: training it first")
            self.train_baseline(baseline_recipe(self.settings, self.settings.flag_spec()), "none")
            path = own = self.run.checkpoint("baseline", self.settings.flag_spec().depth)
        model = given or load_dense(self.settings, path)
        check_classes(model, self.data, path)
        if own is not None and path.resolve() == own.resolve():
            return model.to(self.device), self._own_record(own, model)
        note = "checkpoint from elsewhere: it may have seen the val images, so quote test"
        return model.to(self.device), self._current_record(path, GIVEN, (note,))

    def _own_record(self, path: Path, model: VGG) -> ModelRecord:
        trained_on = model.meta.get("data")
        if trained_on in (None, data_summary(self.data)):
            return self._current_record(path, "baseline", ())
        note = f"the baseline was trained with other --limit options or images ({trained_on})"
        self.settings.note(note)
        return self._current_record(path, "baseline", (note,))

    def _current_record(self, path: Path, name: str, notes: tuple[str, ...]) -> ModelRecord:
        """The record of ``name``, measured again where it is not of these weights and images."""
        record = self.run.record(name)
        if record is None or record.sha256 != file_fingerprint(path) or record.data != data_summary(self.data):
            record = self._record(path, name, notes)
        return record

    def train_baseline(self, recipe: Recipe, weights: str) -> ModelRecord:
        """Train the dense model (or do nothing where it was trained with the same settings before)."""
        model = self._start(weights)
        start = file_fingerprint(Path(weights)) if Path(weights).is_file() else weights
        key = fingerprint(asdict(recipe), model.spec.to_dict(), data_summary(self.data), start, str(self.precision))
        path = self.run.checkpoint("baseline", model.spec.depth)
        partial = partial_of(path)
        if _key_of(path) == key:
            self.settings.note(f"{path} was trained with these settings before; nothing to do")
            partial.unlink(missing_ok=True)
            return self._current_record(path, "baseline", ())
        seconds = estimate_seconds(
            model.to(self.device), self.data, recipe, Normalisation.of(model.meta), self.precision
        )
        self.settings.note(
            f"training {model.spec.arch} ({model.spec.head} head) for {recipe.epochs} epochs on {len(self.data.train)} images"
            f" of {self.data.name}: about {duration(seconds)} here ({self.device.type})"
        )
        history = self.fit(model, recipe, partial, "train")
        write_text(self.run.root / "history.csv", history_csv(history))
        model.meta.update(key=key, data=data_summary(self.data))
        record = self.finish(model, "baseline")
        partial.unlink(missing_ok=True)
        return record

    def _start(self, weights: str) -> VGG:
        spec = replace(self.settings.flag_spec(), num_classes=len(self.data.classes))
        torch.manual_seed(self.settings.seed)
        model = build(spec)
        model.meta = {
            "mean": list(self.data.normalisation.mean),
            "std": list(self.data.normalisation.std),
            "classes": list(self.data.classes),
            "dataset": self.data.name,
        }
        if weights == "none":
            return model
        if weights == "imagenet":
            state, meta = imagenet_weights(spec.arch)
            if spec.head == "linear":
                state = {n: v for n, v in state.items() if n.startswith("features")} | _fresh_head(model)
            source = checkpoint.from_state_dict(state)
        else:
            source = checkpoint.load(weights)
            self.settings.check_spec(source.spec, weights)
            meta = {"mean": source.meta["mean"], "std": source.meta["std"], "source": Path(weights).name}
        if source.spec.num_classes != spec.num_classes or weights == "imagenet":
            source = _with_new_head(source, model)
        source.kept = {}  # whatever it was cut from, it is the dense model now
        source.meta = {
            **model.meta,
            **meta,
            "notes": [n for n in source.meta.get("notes", []) if n.startswith("head folded")],
        }
        return source


def stage(work: Callable[P, T]) -> Callable[P, T]:
    """A heavy stage: accelerator memory is released before it starts and once it has let go of everything."""

    @functools.wraps(work)
    def released(*args: P.args, **kwargs: P.kwargs) -> T:
        release_memory()
        try:
            return work(*args, **kwargs)
        finally:
            release_memory()

    return released


@contextmanager
def session(
    settings: Settings, dense: VGG | None = None, ranks: Ranks = ALONE, writes: tuple[str, ...] = MODELS[1:]
) -> Iterator[Session]:
    """Check the device, load the data and lock the run directory, for one stage.

    ``dense``: the model of ``--checkpoint``, refused where its classes are not the data's, or where the file is one
    of the models that the stage ``writes``, before anything is written. ``ranks``: the processes that share the stage.
    """
    device = pick_device(settings.device)
    peak = PeakMemory(device)
    with ranks.leader_first():
        data = load_data(
            settings.dataset,
            settings.data_dir,
            device,
            limits=settings.limits,
            note=settings.note,
            quiet=settings.quiet,
        )
    if dense is not None:
        settings = settings.for_spec(dense.spec)
    run = RunDir.of(settings, data.fingerprint)
    if dense is not None and settings.checkpoint is not None:
        check_classes(dense, data, settings.checkpoint)
        outputs = {run.checkpoint(name, dense.spec.depth).resolve() for name in writes}
        if settings.checkpoint.resolve() in outputs:
            raise BadInput(f"--checkpoint: {settings.checkpoint} would be written over; give a --tag or another --out")
    with locked(run.root) if ranks.leads else nullcontext():
        yield Session(settings, run, device, pick_precision(settings.precision, device), data, peak)


def check_classes(model: VGG, data: DataSet, source: object) -> None:
    """Raise :class:`BadInput` where ``model`` was made for other classes than ``data`` has."""
    if model.spec.num_classes != len(data.classes):
        found, wanted = model.spec.num_classes, len(data.classes)
        raise BadInput(f"{source}: has {found} classes, {data.name} has {wanted}; give the data it was trained on")
    classes = model.meta.get("classes")
    if classes is not None and tuple(classes) != data.classes:
        raise BadInput(
            f"{source}: was trained for other class names than {data.name}'s; give the data it was trained on"
        )


def load_given(settings: Settings) -> VGG | None:
    """The model of ``--checkpoint``, if there is one. Raises :class:`BadInput` for a bad file or a contradicting flag."""
    return load_dense(settings, settings.checkpoint) if settings.checkpoint is not None else None


def load_dense(settings: Settings, path: Path) -> VGG:
    """Load the model to start from. Raises :class:`BadInput` for a bad file or a contradicting flag."""
    model = checkpoint.load(path)
    settings.check_spec(model.spec, path)
    return model


def data_summary(data: DataSet) -> dict[str, object]:
    """What a figure was measured on."""
    sizes = {"train": len(data.train), "val": len(data.val), "test": len(data.test)}
    return {"dataset": data.name, "fingerprint": data.fingerprint, **sizes}


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
        raise BadInput(f"--weights: holds widths other than {fresh.spec.arch}'s; give a full-width file")
    model.load_state_dict(state, strict=False)
    return model
