"""A session gives a stage its data and device, and trains, saves, measures and records models."""

from __future__ import annotations

import copy
import functools
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

from tp_vgg.data.datasets import DataSet, load_data
from tp_vgg.data.split import Normalisation
from tp_vgg.errors import BadInput, WorkFailed
from tp_vgg.evaluation.accuracy import Accuracy
from tp_vgg.evaluation.evaluate import accuracy, hits
from tp_vgg.evaluation.hits import pack_hits
from tp_vgg.evaluation.record import ModelRecord
from tp_vgg.files.atomic import rename, write_json
from tp_vgg.files.lock import locked
from tp_vgg.machine.console import muted
from tp_vgg.machine.device import pick_device
from tp_vgg.machine.distributed import ALONE, Ranks, device_of_rank, joined
from tp_vgg.machine.environment import environment
from tp_vgg.machine.memory import PeakMemory, release_memory
from tp_vgg.machine.precision import pick_precision
from tp_vgg.network import checkpoint
from tp_vgg.network.count import count_nonzero, layer_sparsity
from tp_vgg.network.network import Network
from tp_vgg.pruning.criteria import CRITERIA
from tp_vgg.pruning.gradients import accumulate_gradients
from tp_vgg.rundir.contents import RunContents
from tp_vgg.rundir.layout import MODELS, RunDir, partial_of
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.outputs import scalars
from tp_vgg.training.history import Epoch
from tp_vgg.training.masking import Masking
from tp_vgg.training.recipe import Recipe
from tp_vgg.training.setup import TrainingSetup
from tp_vgg.training.trainer import fit

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Session:
    """A session is one command at work in a run directory that it has locked."""

    settings: Settings
    contents: RunContents
    device: torch.device
    precision: torch.dtype
    data: DataSet
    peak: PeakMemory
    """Peak memory since the start of the session or the last record."""
    ranks: Ranks = ALONE
    """Processes that share the work; torchrun starts them."""

    @property
    def run(self) -> RunDir:
        """Return the run directory."""
        return self.contents.run

    def finish(self, model: Network, name: str, *, notes: tuple[str, ...] = ()) -> ModelRecord:
        """Save ``model`` as the run directory's ``name``, measure it and return its record.

        The file is written under a temporary name and reloaded. It gets its final name only if it
        gives the same logits, bit for bit. Under torchrun the main process does all this, and every
        process gets the record. Raises :class:`WorkFailed` if the logits differ or are not finite;
        the file is then removed.
        """
        return self.ranks.run_on_main(lambda: self._finish(model, name, notes))

    def _finish(self, model: Network, name: str, notes: tuple[str, ...]) -> ModelRecord:
        path = self.run.checkpoint(name, model.spec.stem)
        unchecked = partial_of(path, ".unchecked")
        checkpoint.save(model, unchecked)
        try:
            self._check_reloaded(model, unchecked)
            rename(unchecked, path)
        finally:
            unchecked.unlink(missing_ok=True)
        return self.record(path, name, notes)

    def discard(self, *partials: Path) -> None:
        """Delete partial files whose work is finished; only the main process does."""
        for partial in partials if self.ranks.is_main else ():
            partial.unlink(missing_ok=True)

    def record(
        self, path: Path, name: str, notes: tuple[str, ...], *, command: str | None = None
    ) -> ModelRecord:
        """Measure the checkpoint at ``path`` and write its record as the run directory's ``name``.

        ``command`` is the command line that made the checkpoint; ``None`` means the current one.
        The measurement of peak memory restarts afterwards.
        """
        record = self.measured(path, notes)
        if command is not None:
            record = replace(record, command=command)
        write_json(self.run.record_path(name), record.to_dict())
        self.peak.reset()
        return record

    def measured(self, path: Path, notes: tuple[str, ...] = ()) -> ModelRecord:
        """Measure accuracy, size and cost of the checkpoint at ``path``, loaded from the disk.

        If the test accuracy can't be told from that of always naming the most frequent class, a
        note says so in the log and in the record.
        """
        model = checkpoint.load(path)
        model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        normalisation = Normalisation.of(model.meta)
        label = self.settings.bar("measure")
        test_hits = hits(model, self.data.test, normalisation, label=label)
        test = Accuracy.of(int(test_hits.sum()), len(test_hits))
        chance_warnings = test.chance_warnings(
            100 * int(self.data.test.labels.bincount().max()) / len(test_hits)
        )
        for warning in chance_warnings:
            log.info(f"{path}: {warning}")
        return ModelRecord(
            checkpoint=os.path.relpath(path.resolve(), self.run.root.resolve()),
            sha256=self.contents.sha256(path),
            baseline=model.meta.get("baseline"),
            key=model.meta.get("key", ""),
            val=accuracy(model, self.data.val, normalisation, label=label),
            test=test,
            params=model.spec.params(),
            nonzero=count_nonzero(model),
            macs=model.spec.macs(),
            bytes=path.stat().st_size,
            spec=model.spec.to_dict(),
            sparsity=dict(layer_sparsity(model)),
            data=data_summary(self.data),
            environment=environment(self.device),
            peak_bytes=self.peak.bytes(),
            hits=pack_hits(test_hits),
            command=self.settings.command,
            notes=(*model.meta.get("notes", ()), *notes, *chance_warnings),
        )

    def accumulate_gradients(self, model: Network, importance: str) -> None:
        """Leave gradients of the loss in the parameters' ``grad`` if ``importance`` needs them."""
        criterion = CRITERIA[importance]
        if criterion.needs_gradients:
            label, normalisation = self.settings.bar("gradients"), Normalisation.of(model.meta)
            accumulate_gradients(
                model, self.data.train, normalisation, squared=criterion.squared, label=label
            )

    def _check_reloaded(self, model: Network, path: Path) -> None:
        """Raise :class:`WorkFailed` unless the file at ``path`` gives the logits of ``model``.

        They must be finite and equal to the bit on 16 val images. Both networks run on the CPU in
        one memory layout, so that the same weights give the same bits.
        """
        images = Normalisation.of(model.meta)(self.data.val.images[:16].cpu())
        reference = copy.deepcopy(model).cpu().to(memory_format=torch.channels_last).eval()
        reloaded = checkpoint.load(path).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            logits = reference(images)
            same = torch.equal(logits, reloaded(images))
        if not logits.isfinite().all():
            raise WorkFailed(f"{path}: gives logits that are not finite; removed")
        if not same:
            raise WorkFailed(
                f"{path}: reloaded, it gives other logits than the model that was saved; removed"
            )

    def training(
        self,
        model: Network,
        recipe: Recipe,
        teacher: Network | None = None,
        masking: Masking | None = None,
    ) -> TrainingSetup:
        """Return the training setup of ``model`` with this session's data, precision and ranks."""
        normalisation = Normalisation.of(model.meta)
        return TrainingSetup(
            self.data, recipe, normalisation, self.precision, teacher, masking, self.ranks
        )

    def fit(
        self,
        model: Network,
        recipe: Recipe,
        partial: Path,
        label: str,
        teacher: Network | None = None,
        masking: Masking | None = None,
    ) -> tuple[Epoch, ...]:
        """Train ``model`` in place on this session's data and return the epochs.

        See :func:`tp_vgg.training.trainer.fit` for the arguments and errors. The recipe and the
        precision are stored in ``model.meta["training"]``. The main process writes the scalars for
        TensorBoard.
        """
        tensorboard = self.settings.tensorboard and self.ranks.is_main
        settings = replace(self.settings, tensorboard=tensorboard)
        with scalars(settings, self.run, partial.stem.removesuffix(".partial")) as epoch_done:
            setup = self.training(model, recipe, teacher, masking)
            history = fit(
                model,
                setup,
                partial=partial,
                label=label,
                quiet=self.settings.quiet,
                epoch_done=epoch_done,
            )
        precision = str(self.precision).removeprefix("torch.")
        model.meta = {**model.meta, "training": {**asdict(recipe), "precision": precision}}
        return tuple(history)


def stage(function: Callable[P, T]) -> Callable[P, T]:
    """Wrap a stage so that unused memory is released before it starts and after it has ended."""

    @functools.wraps(function)
    def released(*args: P.args, **kwargs: P.kwargs) -> T:
        release_memory()
        try:
            return function(*args, **kwargs)
        finally:
            release_memory()

    return released


@contextmanager
def open_session(
    settings: Settings,
    dense: Network | None = None,
    ranks: Ranks = ALONE,
    writes: tuple[str, ...] = MODELS[1:],
    contents: RunContents | None = None,
) -> Iterator[Session]:
    """Load the data and hold the lock on the run directory for the duration of one stage.

    ``dense``: the model of ``--checkpoint``. ``ranks``: the processes that share the stage; the
    main one loads the data first and holds the lock. ``writes``: the models that the stage writes.
    ``contents``: the contents of the run directory, if the command has read them already.

    Raises :class:`BadInput` if the machine lacks the device, the data can't be read, the classes of
    ``dense`` are not those of the data, its file is one that the stage would overwrite, or another
    command holds the lock. Nothing is written to the run directory then.
    """
    device = pick_device(settings.device)
    peak = PeakMemory(device)
    with ranks.main_first():
        data = load_data(
            settings.dataset,
            settings.data_dir,
            device,
            limits=settings.limits,
            quiet=settings.quiet,
            skip_corrupt=settings.skip_corrupt,
        )
    if dense is not None:
        settings = settings.for_spec(dense.spec)
    run = RunDir.of(settings, data.fingerprint)
    if dense is not None and settings.checkpoint is not None:
        check_classes(dense, data, settings.checkpoint)
        check_not_overwritten(settings.checkpoint, run, dense.spec.stem, writes)
    with locked(run.root) if ranks.is_main else nullcontext():
        if contents is None or contents.run != run:
            contents = RunContents(run)
        yield Session(
            settings,
            contents,
            device,
            pick_precision(settings.precision, device),
            data,
            peak,
            ranks,
        )


def check_not_overwritten(path: Path, run: RunDir, stem: str, writes: tuple[str, ...]) -> None:
    """Raise :class:`BadInput` if ``--checkpoint`` is the file of a model to be written.

    ``path``: that of ``--checkpoint``. ``stem``: the stem of its spec. ``writes``: the models.
    """
    if path.resolve() in {run.checkpoint(name, stem).resolve() for name in writes}:
        raise BadInput(f"--checkpoint: {path} would be written over; give a --tag or another --out")


@contextmanager
def ranked(settings: Settings) -> Iterator[tuple[Settings, Ranks]]:
    """Connect the processes that torchrun started, for the duration of the block.

    Yields this process's settings and the ranks. The settings name the process's own device; only
    the main process shows notes and progress bars. A process that runs alone works as usual.
    """
    device = device_of_rank(pick_device(settings.device))
    with joined(device) as ranks, muted(not ranks.is_main):
        yield (
            replace(settings, device=str(device), quiet=settings.quiet or not ranks.is_main),
            ranks,
        )


def check_classes(model: Network, data: DataSet, source: object) -> None:
    """Raise :class:`BadInput` if ``model`` was made for other classes than ``data`` has.

    The numbers of classes must be equal, and their names too if the model knows them. ``source``
    is the model's file, for the message.
    """
    if model.spec.num_classes != len(data.classes):
        raise BadInput(
            f"{source}: has {model.spec.num_classes} classes, {data.name} has {len(data.classes)};"
            " give the data it was trained on"
        )
    classes = model.meta.get("classes")
    if classes is not None and tuple(classes) != data.classes:
        raise BadInput(
            f"{source}: was trained for other class names than {data.name}'s;"
            " give the data it was trained on"
        )


def load_given(settings: Settings) -> Network | None:
    """Load the model of ``--checkpoint``; return ``None`` if that option was not given.

    Raises :class:`BadInput` as :func:`load_dense` does.
    """
    return load_dense(settings, settings.checkpoint) if settings.checkpoint is not None else None


def load_dense(settings: Settings, path: Path) -> Network:
    """Load the dense model from ``path``.

    Raises :class:`BadInput` if the file can't be read or ``--arch`` or ``--head`` contradicts it.
    """
    model = checkpoint.load(path)
    settings.check_spec(model.spec, path)
    return model


def data_summary(data: DataSet) -> dict[str, object]:
    """Return a record's entry about its images: data set, fingerprint, images per split."""
    sizes = {"train": len(data.train), "val": len(data.val), "test": len(data.test)}
    return {"dataset": data.name, "fingerprint": data.fingerprint, **sizes}
