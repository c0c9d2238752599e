"""A network is fine-tuned here on the images of a Python caller, with its zeros held."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from tp_vgg.data.augment import augment
from tp_vgg.data.split import Normalisation, NormalisedSplit, Split
from tp_vgg.errors import BadInput, WorkFailed
from tp_vgg.evaluation.evaluate import hits
from tp_vgg.evaluation.images import Images, Labelled
from tp_vgg.files.checks import MAX_SEED, choice, number, true_or_false, whole_number
from tp_vgg.machine.console import progress_bar
from tp_vgg.machine.precision import exact_fp32, pick_precision
from tp_vgg.network.doors import check_no_inference_tensors, runnable_network
from tp_vgg.network.held import Held
from tp_vgg.network.masks import refresh_masked_weights
from tp_vgg.network.mode import modes_kept
from tp_vgg.network.network import Network
from tp_vgg.training.history import Epoch
from tp_vgg.training.recipe import Recipe
from tp_vgg.training.step import draw_epoch, stream_seed
from tp_vgg.training.trainer import CHECK_EVERY
from tp_vgg.training.update import Update

BATCH_SIZE = 128
"""Images per step of a split or a pair, by default."""
MOST = 1_000_000
"""Largest number of an option that is taken for meant."""
Schedule = Literal["triangular", "one-cycle"]
Precision = Literal["auto", "fp32", "bf16"]


def finetune(
    model: Network,
    loader: Labelled,
    *,
    teacher: Network | None = None,
    val: Labelled | None = None,
    epochs: int = 5,
    lr: float | None = None,
    batch_size: int | None = None,
    schedule: Schedule = "triangular",
    distill_weight: float = 0.5,
    distill_temperature: float = 4.0,
    label_smoothing: float = 0.1,
    flip: bool = False,
    precision: Precision = "auto",
    seed: int = 0,
    quiet: bool = True,
) -> list[Epoch]:
    """Train a pruned ``model`` in place, and return one row per epoch.

    Weights that are zero stay exactly zero, with or without masks of ``torch.nn.utils.prune``. The
    optimiser is SGD with Nesterov momentum and decoupled weight decay, as on the command line.

    ``loader``: a ``DataLoader`` (or another iterable, not a generator) of pairs (images, labels).
    Its float images go to the network as they are, so normalise and augment them there. Or a
    :class:`~tp_vgg.data.Split` or a pair of tensors: these are shuffled, in steps of ``batch_size``
    (128) images. Images in uint8 are normalised as ``model.meta`` says, and those of a split or
    pair are shifted at random too; ``flip`` also mirrors them.

    ``teacher``: the dense network. Then ``distill_weight`` of the loss is the divergence from its
    outputs at the temperature ``distill_temperature`` (Hinton et al. 2015). ``val``: images on
    which each epoch is evaluated; ``model`` ends with the weights of the best one, without ``val``
    with those of the last, and ``val_accuracy`` is NaN. ``lr``: peak learning rate, by default 0.02
    with batch norm and 0.005 without (after a repair of removed channels, 0.005 for a single epoch
    did better). ``precision``: ``auto`` is bf16 if the device is fast at it. ``seed``: of dropout,
    of the shuffling here, and of a loader's that has no generator of its own. ``quiet``: no
    progress bar.

    Parameters that require no gradient stay as they are; statistics of batch norm do not. ``model``
    is left in eval mode, on its device. Raises :class:`BadInput`, and leaves the weights
    as they were, for a model that its spec does not describe or that is not in float32, for images
    or labels that do not fit it, for a teacher with other classes, another image size or on another
    device, and for options out of range; :class:`WorkFailed` if the loss is not finite. ``model``
    then has the weights of an earlier epoch, or those from before.
    """
    network = runnable_network(model)
    check_no_inference_tensors(network)
    recipe = Recipe(
        epochs=whole_number("epochs", epochs, 1, MOST),
        lr=(0.02 if network.spec.batch_norm else 0.005)
        if lr is None
        else number("lr", lr, 0, above=True),
        batch_size=BATCH_SIZE
        if batch_size is None
        else whole_number("batch_size", batch_size, 1, MOST),
        schedule=schedule,
        label_smoothing=number("label_smoothing", label_smoothing, 0, 1),
        seed=whole_number("seed", seed, 0, MAX_SEED),
        distill_weight=number("distill_weight", distill_weight, 0, 1),
        distill_temperature=number("distill_temperature", distill_temperature, 0, above=True),
    )
    choice("schedule", schedule, get_args(Schedule))
    choice("precision", precision, get_args(Precision))
    true_or_false("flip", flip)
    true_or_false("quiet", quiet)
    images = Images.of("loader", loader, network)
    if images.is_loader and batch_size is not None:
        raise BadInput("batch_size: the loader makes its own batches; leave it out")
    if images.is_loader and flip:
        raise BadInput("flip: the loader augments its own images; leave it out")
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise BadInput("model: no parameter requires a gradient; model.requires_grad_() sets that")
    tuning = _Tuning(
        network,
        images,
        None if val is None else Images.of("val", val, network),
        recipe,
        None if teacher is None else _checked_teacher(teacher, network),
        flip,
        pick_precision(precision, next(network.parameters()).device),
    )
    return tuning.run(quiet)


def _checked_teacher(teacher: object, network: Network) -> Network:
    checked = runnable_network(teacher, "teacher")
    if checked is network:
        raise BadInput("teacher: is the model itself; give the dense network, loaded anew")
    ours, theirs = (next(part.parameters()).device for part in (network, checked))
    for what, own, other in (
        ("classes", network.spec.num_classes, checked.spec.num_classes),
        ("an image size of", network.spec.image_size, checked.spec.image_size),
    ):
        if own != other:
            raise BadInput(f"teacher: has {what} {other}, the model {own}; give the dense network")
    if ours != theirs:
        raise BadInput(f"teacher: on {theirs}, the model on {ours}; move one of them with .to()")
    return checked


@dataclass(frozen=True)
class _Tuning:
    """A checked call of :func:`finetune`."""

    network: Network
    images: Images
    val: Images | None
    recipe: Recipe
    teacher: Network | None
    flip: bool
    precision: torch.dtype

    def run(self, quiet: bool) -> list[Epoch]:
        """Train, restore all that is not a weight, and return the history."""
        network, teacher, device = self.network, self.teacher, self._device
        contiguous = all(parameter.is_contiguous() for parameter in network.parameters())
        try:
            with (
                torch.inference_mode(False),
                torch.enable_grad(),
                torch.random.fork_rng([device] if device.type == "cuda" else []),
                exact_fp32(),
                Held(network),
                nullcontext() if teacher is None else modes_kept(teacher),
            ):
                torch.manual_seed(self.recipe.seed)
                network.to(memory_format=torch.channels_last)
                if teacher is not None:
                    teacher.eval()
                return self._train(quiet)
        finally:
            with torch.inference_mode(False):
                if contiguous:
                    network.to(memory_format=torch.contiguous_format)
                network.zero_grad()
                network.eval()
                refresh_masked_weights(network)

    def _train(self, quiet: bool) -> list[Epoch]:
        network, recipe = self.network, self.recipe
        start = kept = _cloned(network)
        best = -1.0
        steps = self._steps_per_epoch()
        total = recipe.epochs * steps
        update = Update(
            network, recipe, self._device, precision=self.precision, teacher=self.teacher
        )
        history: list[Epoch] = []
        if self.val is not None:
            next(self.val.batches())  # refused now rather than after an epoch
        try:
            with progress_bar("fine-tuning", unit="batch", quiet=quiet, total=total) as bar:
                for epoch in range(recipe.epochs):
                    began, seen = time.perf_counter(), 0
                    network.train()
                    update.reset()
                    for index, (inputs, labels) in enumerate(self._batches(epoch)):
                        # A loader may give more batches than its length says.
                        step = epoch * steps + min(index, steps - 1)
                        update.set_rate(recipe.rate(step, steps))
                        torch.manual_seed(stream_seed(recipe.seed, step, 2))  # as in `fit`
                        update.train_on(inputs, labels)
                        seen += len(labels)
                        bar.update()
                        if (index + 1) % CHECK_EVERY.get(self._device.type, 20) == 0:
                            self._check_finite(update, step, total, history)
                    self._check_finite(update, (epoch + 1) * steps - 1, total, history)
                    measured = self._val_accuracy()
                    history.append(
                        Epoch(
                            epoch=epoch + 1,
                            lr=recipe.rate((epoch + 1) * steps, steps),
                            train_loss=float(update.loss_sum) / seen,
                            train_accuracy=100 * int(update.hits) / seen,
                            val_accuracy=measured,
                            seconds=round(time.perf_counter() - began, 3),
                        )
                    )
                    if math.isnan(measured) or measured >= best:
                        kept, best = _cloned(network), measured
        except BadInput:
            network.load_state_dict(start)
            raise
        except WorkFailed:
            network.load_state_dict(kept)
            raise
        network.load_state_dict(kept)
        return history

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def _split(self) -> Split | None:
        """Return the split or pair that is drawn from here; None for a loader."""
        return None if self.images.is_loader else self.images.whole()

    def _steps_per_epoch(self) -> int:
        if self._split is not None:
            return -(-len(self._split) // self.recipe.batch_size)
        return max(self.images.batch_count(), 1)

    def _batches(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the inputs of the network and the labels of each step of ``epoch``."""
        normalise = Normalisation.of(self.network.meta).on(self._device)
        split = self._split
        if split is None:
            for batch in self.images.batches():
                yield normalise(batch.images), batch.labels
            return
        draws = draw_epoch(self.recipe, epoch, len(split), self.flip).to(self._device)
        for columns in draws.split(self.recipe.batch_size, dim=1):
            if isinstance(split, NormalisedSplit):
                yield split.images[columns[0]], split.labels[columns[0]]
            else:
                images, labels = augment(split, columns)
                yield normalise(images), labels

    def _check_finite(self, update: Update, step: int, total: int, history: list[Epoch]) -> None:
        if math.isfinite(float(update.loss_sum)) and all(
            bool(value.isfinite().all())
            for value in self.network.state_dict().values()
            if value.is_floating_point()
        ):
            return
        raise WorkFailed(
            f"the fine-tuning became non-finite by step {step + 1} of {total}; the model has the "
            f"weights of {'an earlier epoch' if history else 'before'}; try a smaller lr"
        )

    def _val_accuracy(self) -> float:
        """Return the accuracy on the val images in percent; NaN without any."""
        if self.val is None:
            return math.nan
        correct = total = 0
        normalisation = Normalisation.of(self.network.meta)
        for split in self.val.batches():
            correct += int(hits(self.network, split, normalisation, self.precision).sum())
            total += len(split)
        return 100 * correct / total


def _cloned(network: Network) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
