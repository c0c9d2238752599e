"""A training run advances one training step by step, and saves and restores its state."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from functools import partial as partial_call
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tp_vgg.errors import WorkFailed
from tp_vgg.evaluation.evaluate import predictions
from tp_vgg.files.fingerprint import fingerprint
from tp_vgg.machine.cuda_graph import capture_graph
from tp_vgg.machine.distributed import Ranks
from tp_vgg.training.history import Epoch
from tp_vgg.training.setup import TrainingSetup
from tp_vgg.training.snapshot import find_partial, save_partial
from tp_vgg.training.step import ReplayedStep, TrainingStep, draw_epoch, stream_seed

TRAINING_VERSION = "tp_vgg/training/2"
"""Part of every training's key.

Raise it when the same recipe would draw other random numbers: then no unfinished training that an
earlier version began is resumed.
"""


def replays(device: torch.device, ranks: Ranks) -> bool:
    """Return True if the steps are captured as a CUDA graph: on a GPU, in a single process.

    Several processes exchange gradients during a step, which is not captured.
    """
    return device.type == "cuda" and ranks.size == 1


class TrainingRun:
    """A training run holds the state of one :func:`~tp_vgg.training.trainer.fit`.

    ``partial`` is the file for unfinished work.
    """

    def __init__(self, model: nn.Module, setup: TrainingSetup, partial: Path | None = None) -> None:
        self.model, self.setup, self.partial = model, setup, partial
        self.data, self.recipe, self.ranks, self.device = (
            setup.data,
            setup.recipe,
            setup.ranks,
            setup.device,
        )
        self.precision, self.masking, teacher = setup.precision, setup.masking, setup.teacher
        if teacher is not None:
            teacher.eval().to(self.device)
            teacher.to(memory_format=torch.channels_last)
        self.steps_per_epoch = setup.steps_per_epoch
        self.total_steps = setup.recipe.epochs * self.steps_per_epoch
        # nn.Module.to accepts `memory_format`, but torch's type hints have no such overload.
        model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        model.train()
        self.key = _key(model, setup)
        replayed = replays(self.device, self.ranks)
        self.update = TrainingStep(
            model, setup, network=self.ranks.data_parallel(model), on_device=replayed
        )
        capture = partial_call(capture_graph, device=self.device)
        self.replay = (
            ReplayedStep(self.update, self.recipe.batch_size, capture) if replayed else None
        )
        self.draws: tuple[int, torch.Tensor] | None = None
        """An epoch's number, and its :func:`draw_epoch` on the device."""
        self.step = 0
        self.seconds_before = 0.0
        """Seconds spent on the current epoch by earlier, interrupted processes."""
        self.began = time.perf_counter()
        self.history: list[Epoch] = []
        self.best: dict[str, Any] = {"accuracy": -1.0, "model": None}
        self.last_good = self.snapshot()

    @property
    def at_epoch_end(self) -> bool:
        """Return True if the steps done so far make up whole epochs."""
        return self.step % self.steps_per_epoch == 0

    def images_done(self) -> int:
        """Return the number of images trained on so far, over all epochs and ranks."""
        epochs, steps = divmod(self.step, self.steps_per_epoch)
        return epochs * len(self.data.train) + steps * self.recipe.batch_size

    @property
    def seconds(self) -> float:
        """Return the seconds spent on the current epoch, interrupted processes included."""
        return self.seconds_before + time.perf_counter() - self.began

    def train_step(self) -> int:
        """Train on the next batch and return the number of its images, over all ranks.

        Every random number of a step follows from the seed and the step's number alone.
        """
        epoch, index = divmod(self.step, self.steps_per_epoch)
        if self.masking is not None:
            self.masking.before_step(self.model, self.step, self.total_steps)
        size = self.recipe.batch_size
        draws = self.draws_of(epoch)[:, index * size : (index + 1) * size]
        images = draws.shape[1]
        shard = draws[:, self.ranks.shard_slice(images)]
        torch.manual_seed(stream_seed(self.recipe.seed, self.step, 2))  # for dropout
        rate = self.recipe.rate(self.step, self.steps_per_epoch)
        if self.replay is not None:
            self.replay(shard, rate)
        else:
            # With this weight, the mean of the ranks' losses is the mean over the whole batch.
            loss_weight = shard.shape[1] * self.ranks.size / max(images, self.ranks.size)
            self.update(shard, rate, loss_weight)
        self.step += 1
        return images

    def draws_of(self, epoch: int) -> torch.Tensor:
        """Return the random numbers of ``epoch`` on the device (:func:`draw_epoch`).

        They are drawn and sent to the device once per epoch.
        """
        if self.draws is None or self.draws[0] != epoch:
            draws = draw_epoch(self.recipe, epoch, len(self.data.train), self.data.flip)
            self.draws = epoch, draws.to(self.device)
        return self.draws[1]

    def check_finite(self) -> tuple[float, int]:
        """Raise :class:`WorkFailed` if the loss or the model is not finite on any rank.

        Returns this process's sum of the loss and number of hits in the epoch so far. Waits for the
        device once.
        """
        state = [value for value in self.model.state_dict().values() if value.is_floating_point()]
        largest = torch.nn.utils.get_total_norm(state, torch.inf)  # batch norm's statistics too
        values = torch.stack([largest.double(), self.update.loss_sum, self.update.hits.double()])
        largest_magnitude, loss_sum, hits = values.tolist()
        self.require(math.isfinite(largest_magnitude) and math.isfinite(loss_sum))
        return loss_sum, int(hits)

    def require(self, finite: bool) -> None:
        """Save the last good epoch and raise :class:`WorkFailed` if any rank is not ``finite``."""
        if not self.ranks.any(not finite, device=self.device)[0]:
            return
        where_saved = ""
        if self.last_good["step"]:
            self.save(self.last_good)
            if self.partial:
                where_saved = f"; the last good epoch is kept in {self.partial}"
        raise WorkFailed(
            f"the training became non-finite at step {self.step} of {self.total_steps}"
            f"{where_saved}; try a smaller --lr"
        )

    def end_epoch(self, label: str) -> None:
        """Validate the model, add the epoch to the history and keep the best weights.

        ``label`` names the progress bar of the validation. Raises :class:`WorkFailed` if logits on
        the val images are not finite.
        """
        self.average_buffers()
        predicted = predictions(
            self.model, self.data.val, self.setup.normalisation, self.precision, label
        )
        self.require(bool((predicted >= 0).all()))
        val = 100 * int((predicted == self.data.val.labels).sum()) / len(predicted)
        n = len(self.data.train)
        self.history.append(
            Epoch(
                epoch=len(self.history) + 1,
                lr=self.recipe.rate(self.step, self.steps_per_epoch),
                train_loss=float(self.ranks.all_reduce_sum(self.update.loss_sum)) / n,
                train_accuracy=100 * int(self.ranks.all_reduce_sum(self.update.hits)) / n,
                val_accuracy=val,
                seconds=round(self.seconds, 3),
            )
        )
        settled = self.masking is None or self.masking.settled(self.step, self.total_steps)
        if settled and val >= self.best["accuracy"]:
            self.best = {"accuracy": val, "model": _cloned(self.model.state_dict())}
        self.seconds_before, self.began = 0.0, time.perf_counter()
        self.update.reset()
        self.last_good = self.snapshot()

    def progress(self, loss_sum: float, hits: int) -> dict[str, str]:
        """Return the values that the progress bar shows, as texts by name."""
        seen = self.images_done() % len(self.data.train) / self.ranks.size  # none at an epoch's end
        shown = (
            {"loss": f"{loss_sum / seen:.3f}", "train": f"{100 * hits / seen:.1f}%"} if seen else {}
        )
        if self.history:
            shown["val"] = f"{self.history[-1].val_accuracy:.2f}%"
        return shown

    def snapshot(self) -> dict[str, Any]:
        """Return copies of everything that a rerun needs to resume, as plain types and tensors."""
        self.average_buffers()
        sums = torch.stack([self.update.loss_sum, self.update.hits.double()])
        loss_sum, hits = self.ranks.all_reduce_sum(sums.clone()).tolist()
        return {
            "key": self.key,
            "step": self.step,
            "seconds": self.seconds,
            "loss_sum": loss_sum,
            "hits": int(hits),
            "model": _cloned(self.model.state_dict()),
            "optimizer": self.update.state(),
            "best": self.best,
            "history": [asdict(epoch) for epoch in self.history],
        }

    def save(self, snapshot: dict[str, Any]) -> None:
        """Write ``snapshot`` to ``partial``, if there is one; only the main process writes."""
        if self.partial is not None and self.ranks.is_main:
            save_partial(self.partial, snapshot)

    def resume(self) -> None:
        """Restore the state from ``partial``, if that holds this training."""
        reads_partial = self.partial is not None and self.ranks.is_main
        saved = self.ranks.broadcast(
            find_partial(self.partial, self.key) if reads_partial and self.partial else None
        )
        if saved is None:
            return
        self.step, self.best = saved["step"], saved["best"]
        self.history = [Epoch(**row) for row in saved["history"]]
        if self.step < self.total_steps:
            self.model.load_state_dict(saved["model"])
            self.update.load_state(saved["optimizer"])
            self.update.reset(
                *((saved["loss_sum"], saved["hits"]) if self.ranks.is_main else (0.0, 0))
            )
            self.seconds_before = saved["seconds"]
            self.last_good = self.snapshot()

    def average_buffers(self) -> None:
        """Set batch norm's running statistics to their mean over the ranks.

        Running statistics are linear in the batches, so this may be done at any step.
        """
        for buffer in self.model.buffers() if self.ranks.size > 1 else ():
            if buffer.is_floating_point():
                self.ranks.all_reduce_sum(buffer).div_(self.ranks.size)

    def finish(self) -> list[Epoch]:
        """Load the best epoch's weights, set eval mode, and return the history.

        ``partial`` then holds the best epoch and the history, without the optimiser.
        """
        self.model.load_state_dict(self.best["model"])
        self.model.eval()
        history = [asdict(epoch) for epoch in self.history]
        self.save({"key": self.key, "step": self.step, "best": self.best, "history": history})
        return self.history


def _key(model: nn.Module, setup: TrainingSetup) -> str:
    """Return a fingerprint of all that decides the outcome.

    It covers the version, the recipe, the data and its limits, the precision, the masking schedule
    and the initial weights.
    """
    data, masking = setup.data, setup.masking.key if setup.masking else ""
    sizes = [len(data.train), len(data.val)]
    tensors = [
        value.detach().cpu().contiguous().view(-1).numpy().data
        for value in model.state_dict().values()
    ]
    return fingerprint(
        TRAINING_VERSION,
        asdict(setup.recipe),
        data.fingerprint,
        sizes,
        str(setup.precision),
        masking,
        list(model.state_dict()),
        *tensors,
    )


def _cloned(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}
