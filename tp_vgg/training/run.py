"""The state of one training, step by step."""

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
from tp_vgg.training.step import ReplayedStep, TrainingStep, draw_epoch, mixed

TRAINING = "tp_vgg/training/2"
"""Part of every key; raised when the same recipe draws other numbers, so that no partial goes on in another way than it began."""


def replays(device: torch.device, ranks: Ranks) -> bool:
    """Whether the steps are captured as a CUDA graph: on a GPU, where no gradients are exchanged on the way."""
    return device.type == "cuda" and ranks.size == 1


class TrainingRun:
    """The state of one fit: everything that a partial file must hold."""

    def __init__(self, model: nn.Module, setup: TrainingSetup, partial: Path | None = None) -> None:
        """``partial``: where unfinished work is kept."""
        self.model, self.setup, self.partial = model, setup, partial
        self.data, self.recipe, self.ranks, self.device = (
            setup.data,
            setup.recipe,
            setup.ranks,
            setup.device,
        )
        self.precision, self.masking, teacher = setup.precision, setup.masking, setup.teacher
        if teacher is not None:
            teacher.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.steps_per_epoch = setup.steps_per_epoch
        self.total_steps = setup.recipe.epochs * self.steps_per_epoch
        model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # nn.Module.to has it
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
        """An epoch, and what :func:`draw_epoch` drew for it, on the device."""
        self.step = 0
        self.seconds_before = 0.0
        """That the epoch in hand took in processes that were interrupted."""
        self.began = time.perf_counter()
        self.history: list[Epoch] = []
        self.best: dict[str, Any] = {"accuracy": -1.0, "model": None}
        self.good = self.snapshot()

    @property
    def at_epoch_end(self) -> bool:
        return self.step % self.steps_per_epoch == 0

    def images_done(self) -> int:
        epochs, steps = divmod(self.step, self.steps_per_epoch)
        return epochs * len(self.data.train) + steps * self.recipe.batch_size

    @property
    def seconds(self) -> float:
        """Of the epoch in hand."""
        return self.seconds_before + time.perf_counter() - self.began

    def train_step(self) -> int:
        """One step; every random number in it follows from the seed and the step alone. Returns images seen."""
        epoch, index = divmod(self.step, self.steps_per_epoch)
        if self.masking is not None:
            self.masking.before_step(self.model, self.step, self.total_steps)
        size = self.recipe.batch_size
        draws = self.draws_of(epoch)[:, index * size : (index + 1) * size]
        seen = draws.shape[1]
        mine = draws[:, self.ranks.shard_slice(seen)]
        torch.manual_seed(mixed(self.recipe.seed, self.step, 2))  # of dropout
        rate = self.recipe.rate(self.step, self.steps_per_epoch)
        if self.replay is not None:
            self.replay(mine, rate)
        else:
            # The mean over ranks of these is the mean over the whole batch.
            self.update(mine, rate, mine.shape[1] * self.ranks.size / max(seen, self.ranks.size))
        self.step += 1
        return seen

    def draws_of(self, epoch: int) -> torch.Tensor:
        """What chance decides about ``epoch``: drawn once, sent to the device once."""
        if self.draws is None or self.draws[0] != epoch:
            drawn = draw_epoch(self.recipe, epoch, len(self.data.train), self.data.flip)
            self.draws = epoch, drawn.to(self.device)
        return self.draws[1]

    def check_finite(self) -> tuple[float, int]:
        """Raise :class:`WorkFailed` where the loss or the model is not finite. Returns the sum of the loss and the hits of the epoch so far in
        this process; the device is waited for once."""
        state = [value for value in self.model.state_dict().values() if value.is_floating_point()]
        largest = torch.nn.utils.get_total_norm(state, torch.inf)  # batch norm's statistics too
        read = torch.stack([largest.double(), self.update.loss_sum, self.update.hits.double()])
        largest_magnitude, loss_sum, hits = read.tolist()
        self.require(math.isfinite(largest_magnitude) and math.isfinite(loss_sum))
        return loss_sum, int(hits)

    def require(self, finite: bool) -> None:
        if not self.ranks.any(not finite, device=self.device)[0]:
            return
        kept = ""
        if self.good["step"]:
            self.save(self.good)
            kept = f"; the last good epoch is kept in {self.partial}" if self.partial else ""
        raise WorkFailed(
            f"the training became non-finite at step {self.step} of {self.total_steps}{kept}; try a smaller --lr"
        )

    def end_epoch(self, label: str) -> None:
        self.average_buffers()
        found = predictions(
            self.model, self.data.val, self.setup.normalisation, self.precision, label
        )
        self.require(bool((found >= 0).all()))
        val = 100 * int((found == self.data.val.labels).sum()) / len(found)
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
        self.good = self.snapshot()

    def progress(self, loss_sum: float, hits: int) -> dict[str, str]:
        """What the bar shows."""
        seen = self.images_done() % len(self.data.train) / self.ranks.size  # none at an epoch's end
        shown = (
            {"loss": f"{loss_sum / seen:.3f}", "train": f"{100 * hits / seen:.1f}%"} if seen else {}
        )
        if self.history:
            shown["val"] = f"{self.history[-1].val_accuracy:.2f}%"
        return shown

    def snapshot(self) -> dict[str, Any]:
        """Copies of everything that a rerun needs, as plain types and tensors."""
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
        if self.partial is not None and self.ranks.is_main:
            save_partial(self.partial, snapshot)

    def resume(self) -> None:
        """Go on from ``partial`` where it is of this very work."""
        mine = self.partial is not None and self.ranks.is_main
        saved = self.ranks.broadcast(
            find_partial(self.partial, self.key) if mine and self.partial else None
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
            self.good = self.snapshot()

    def average_buffers(self) -> None:
        """Batch norm's statistics become the mean over the ranks: that is linear, so it may be done at any step."""
        for buffer in self.model.buffers() if self.ranks.size > 1 else ():
            if buffer.is_floating_point():
                self.ranks.all_reduce_sum(buffer).div_(self.ranks.size)

    def finish(self) -> list[Epoch]:
        """Leave the model at its best epoch; what is kept of a finished fit is that epoch and the history, and no more the optimiser."""
        self.model.load_state_dict(self.best["model"])
        self.model.eval()
        history = [asdict(epoch) for epoch in self.history]
        self.save({"key": self.key, "step": self.step, "best": self.best, "history": history})
        return self.history


def _key(model: nn.Module, setup: TrainingSetup) -> str:
    """Fingerprint of all that decides the outcome: start weights, data and its limits, recipe, precision."""
    data, masking = setup.data, setup.masking.key if setup.masking else ""
    sizes = [len(data.train), len(data.val)]
    tensors = [
        value.detach().cpu().contiguous().view(-1).numpy().data
        for value in model.state_dict().values()
    ]
    return fingerprint(
        TRAINING,
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
