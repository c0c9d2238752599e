"""A session gives a stage its data and device, and trains, saves, measures and records models."""

from __future__ import annotations

import copy
import functools
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

from tp_vgg.data.catalogue import IMAGE_SIZE
from tp_vgg.data.datasets import DataSet, load_data
from tp_vgg.data.split import Normalisation
from tp_vgg.errors import WorkFailed
from tp_vgg.files.atomic import rename, write_json, write_text
from tp_vgg.files.lock import locked
from tp_vgg.machine.console import muted
from tp_vgg.machine.device import pick_device
from tp_vgg.machine.distributed import ALONE, Ranks, device_of_rank, joined
from tp_vgg.machine.memory import PeakMemory, release_memory
from tp_vgg.machine.precision import pick_precision
from tp_vgg.network import checkpoint
from tp_vgg.network.network import Network
from tp_vgg.pruning.criteria import CRITERIA
from tp_vgg.pruning.gradients import accumulate_gradients
from tp_vgg.pruning.ranking import ranking_sample
from tp_vgg.rundir.contents import RunContents
from tp_vgg.rundir.expected import with_image_size
from tp_vgg.rundir.layout import RunDir, partial_of
from tp_vgg.rundir.replaced import check_replaced, settle
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.given import check_fits, check_not_overwritten, load_model
from tp_vgg.stages.measure import measured
from tp_vgg.stages.outputs import scalars
from tp_vgg.stages.results import Former, Prepared
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

    def prepare(self, model: Network, name: str, *, notes: tuple[str, ...] = ()) -> Prepared:
        """Save ``model`` under a temporary name and measure it, until :meth:`publish`.

        The file is reloaded and must give the same logits, bit for bit. Under torchrun the main
        process does all this, and every process gets the result. Raises :class:`WorkFailed` if the
        logits differ or are not finite; the file is then removed.
        """
        return self.ranks.run_on_main(lambda: self._prepare(model, name, notes))

    def _prepare(self, model: Network, name: str, notes: tuple[str, ...]) -> Prepared:
        path = self.run.checkpoint(name, model.spec.stem)
        unchecked = partial_of(path, ".unchecked")
        checkpoint.save(model, unchecked)
        try:
            self._check_reloaded(model, unchecked)
            record = measured(self, unchecked, notes, shown_as=path)
        except BaseException:
            unchecked.unlink(missing_ok=True)
            raise
        self.peak.reset()
        relative = os.path.relpath(path.resolve(), self.run.root.resolve())
        return Prepared(unchecked, path, name, replace(record, checkpoint=relative))

    def publish(
        self, prepared: Sequence[Prepared], former: Former | None = None, history: str = ""
    ) -> None:
        """Give finished models their names, after the ``former`` ones gave way.

        ``history``: the epochs of the last one's training as CSV; empty if there was none. Only the
        main process does this.
        """
        if not self.ranks.is_main:
            return
        if former is not None:
            former.give_way()
        settle(self.run.work)
        history_path = self.run.history(prepared[-1].name)
        if history_path is not None and history:
            write_text(history_path, history)
        elif history_path is not None:
            history_path.unlink(missing_ok=True)
        for model in prepared:
            # The record is first: a file without one would be taken for a result of its own.
            write_json(self.run.record_path(model.name), model.record.to_dict())
            rename(model.file, model.path)

    def discard(self, *partials: Path) -> None:
        """Delete partial files whose work is finished; only the main process does."""
        for partial in partials if self.ranks.is_main else ():
            partial.unlink(missing_ok=True)

    def accumulate_gradients(self, model: Network, importance: str) -> None:
        """Leave gradients of the loss in the parameters' ``grad`` if ``importance`` needs them."""
        criterion = CRITERIA[importance]
        if criterion.needs_gradients:
            label, normalisation = self.settings.bar("gradients"), Normalisation.of(model.meta)
            accumulate_gradients(
                model, self.data.train, normalisation, squared=criterion.squared, label=label
            )

    def ranking_sample(self, model: Network, importance: str) -> torch.Tensor | None:
        """Return the training images at which ``importance`` looks; ``None`` if it needs none."""
        return ranking_sample(
            "--limit-train", model, importance, self.data.train, self.settings.seed
        )

    def _check_reloaded(self, model: Network, path: Path) -> None:
        """Raise :class:`WorkFailed` unless the file at ``path`` gives the logits of ``model``.

        They must be finite and equal to the bit on 16 val images. Both networks run on the CPU in
        one memory layout, so that the same weights give the same bits.
        """
        images = Normalisation.of(model.meta)(self.data.val.images[:16].cpu())
        reference = copy.deepcopy(model).cpu().to(memory_format=torch.channels_last).eval()
        reloaded = load_model(self.settings, path, quiet=True).to(memory_format=torch.channels_last)
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
    writes: tuple[str, ...] = (),
    contents: RunContents | None = None,
    others: Mapping[Path, Network] | None = None,
) -> Iterator[Session]:
    """Load the data and hold the lock on the run directory for the duration of one stage.

    ``settings``: adapted to ``dense``, the model of ``--checkpoint`` (:func:`given_network`).
    ``ranks``: the processes that share the stage; the main one loads the data first and holds the
    lock. ``writes``: the models that the stage writes. ``contents``: the contents of the run
    directory, if the command has read them already. ``others``: more networks, by file, that must
    fit the data.

    Raises :class:`BadInput` if the machine lacks the device, the data can't be read, ``dense`` or
    one of the ``others`` is for other images or classes, the file of ``dense`` is one that the
    stage would overwrite, or another command holds the lock. Nothing is written to the run
    directory then.
    """
    device = pick_device(settings.device)
    peak = PeakMemory(device)
    with ranks.main_first():
        settings = with_image_size(settings)
        data = load_data(
            settings.dataset,
            settings.data_dir,
            device,
            limits=settings.limits,
            quiet=settings.quiet,
            skip_corrupt=settings.skip_corrupt,
            image_size=settings.image_size or IMAGE_SIZE,
        )
    run = RunDir.of(settings, data.fingerprint)
    check_replaced(run.work)
    if dense is not None and settings.checkpoint is not None:
        check_fits(dense, data, settings.checkpoint)
        check_not_overwritten(settings.checkpoint, run, dense.spec.stem, writes)
    for path, model in (others or {}).items():
        check_fits(model, data, path)
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
