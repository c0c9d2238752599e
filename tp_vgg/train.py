"""fit(): one trainer for the baseline, for masked networks and for pruned ones; resumable at any step."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from tp_vgg.data import DataSet, Normalisation, augment
from tp_vgg.device import autocast, repeatable
from tp_vgg.errors import WorkFailed
from tp_vgg.evaluate import predictions
from tp_vgg.history import Epoch
from tp_vgg.interrupts import interrupts
from tp_vgg.losses import training_loss
from tp_vgg.partials import find_partial, save_partial
from tp_vgg.ranks import ALONE, Ranks
from tp_vgg.recipe import Recipe
from tp_vgg.storage import fingerprint
from tp_vgg.unstructured import Gradual

SAVE_EVERY = 60.0
"""Seconds of work that a kill can cost at most."""
CHECK_EVERY = 20
"""Steps between looks at the loss (each look waits for the device)."""


def fit(
    model: nn.Module,
    data: DataSet,
    recipe: Recipe,
    *,
    normalisation: Normalisation,
    precision: torch.dtype = torch.float32,
    teacher: nn.Module | None = None,
    partial: Path | None = None,
    label: str = "training",
    quiet: bool = False,
    ranks: Ranks = ALONE,
    masking: Gradual | None = None,
    epoch_done: Callable[[Epoch], object] = lambda _: None,
) -> list[Epoch]:
    """Train ``model`` in place on ``data.train`` and leave it, in eval mode, at its best epoch on ``data.val``.

    ``ranks``: the processes that share each batch, one slice each; gradients are averaged (DistributedDataParallel), batch norm sees its own
    slice. ``masking``: what changes the model's masks on the way. ``epoch_done``: called with each epoch that ends in this process.

    ``partial``: where unfinished work is kept (saved each minute and on Ctrl-C, removed by the caller once the result is under its final
    name). A rerun with the same weights, data and recipe goes on from it and ends at the same numbers.
    Raises :class:`KeyboardInterrupt` after saving, and :class:`WorkFailed` where the loss, the model or its logits on ``data.val`` are
    not finite, with the last good epoch kept in ``partial``, if there is one.
    """
    run = _Run(model, data, recipe, normalisation, precision, teacher, partial, ranks, masking)
    run.resume()
    total = recipe.epochs * len(data.train)
    with (
        interrupts() as interrupted,
        repeatable(),
        tqdm(desc=label, total=total, initial=run.images_done(), unit="img", disable=quiet or None) as bar,
    ):
        last_save = time.monotonic()
        while run.step < run.total_steps:
            seen = run.train_step()
            bar.update(seen)
            if run.step % CHECK_EVERY == 0 or run.at_epoch_end:
                run.check_finite()
                if run.at_epoch_end:
                    run.end_epoch("" if quiet else "val")
                    epoch_done(run.history[-1])
                bar.set_postfix(run.progress())
            stop, due = ranks.any(bool(interrupted), time.monotonic() - last_save > SAVE_EVERY, device=run.device)
            if stop or due:
                run.check_finite()
                run.save(run.snapshot())
                last_save = time.monotonic()
            if stop:
                kept = f"; {partial} holds it" if partial else ""
                raise KeyboardInterrupt(f"{label} stopped at step {run.step} of {run.total_steps}{kept}")
    return run.finish()


class _Run:
    """The state of one fit: everything that a partial file must hold."""

    def __init__(
        self,
        model: nn.Module,
        data: DataSet,
        recipe: Recipe,
        normalisation: Normalisation,
        precision: torch.dtype,
        teacher: nn.Module | None,
        partial: Path | None,
        ranks: Ranks,
        masking: Gradual | None,
    ) -> None:
        self.model, self.data, self.recipe = model, data, recipe
        self.normalisation, self.precision, self.teacher, self.partial = normalisation, precision, teacher, partial
        self.ranks, self.masking = ranks, masking
        if teacher is not None:
            teacher.eval().to(data.train.labels.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = data.train.labels.device
        self.steps_per_epoch = -(-len(data.train) // recipe.batch_size)
        self.total_steps = recipe.epochs * self.steps_per_epoch
        model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # nn.Module.to has it
        model.train()
        self.key = _key(model, data, recipe, str(precision), masking.key if masking else "")
        self.network = ranks.wrapped(model)
        self.decayed: list[torch.Tensor] = [p for p in model.parameters() if p.ndim > 1]
        self.optimizer = torch.optim.SGD(
            model.parameters(), recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=True
        )
        self.sides = torch.randint(
            0, 2, (len(data.train),), generator=torch.Generator().manual_seed(_mix(recipe.seed, 0, 3))
        )
        """Which way an image is turned in the first epoch; from then on it alternates."""
        self.step = 0
        self.seconds = 0.0
        self.loss_sum = torch.zeros((), device=self.device, dtype=torch.float64)
        self.hits = torch.zeros((), device=self.device, dtype=torch.int64)
        self.history: list[Epoch] = []
        self.best: dict[str, Any] = {"accuracy": -1.0, "model": None}
        self.good = self.snapshot()

    @property
    def at_epoch_end(self) -> bool:
        return self.step % self.steps_per_epoch == 0

    def images_done(self) -> int:
        epochs, steps = divmod(self.step, self.steps_per_epoch)
        return epochs * len(self.data.train) + steps * self.recipe.batch_size

    def train_step(self) -> int:
        """One step; every random number in it follows from the seed and the step alone. Returns images seen."""
        start = time.perf_counter()
        recipe = self.recipe
        epoch, index = divmod(self.step, self.steps_per_epoch)
        if self.masking is not None:
            self.masking.before_step(self.model, self.step, self.total_steps)
        order = torch.randperm(
            len(self.data.train), generator=torch.Generator().manual_seed(_mix(recipe.seed, epoch, 1))
        )
        where = order[index * recipe.batch_size : (index + 1) * recipe.batch_size]
        torch.manual_seed(_mix(recipe.seed, self.step, 2))
        mirrored = (self.sides[where] + epoch) % 2 > 0 if self.data.flip else None
        images, labels = augment(self.data.train, where, mirrored, torch.default_generator)
        mine = self.ranks.part(len(labels))
        images, labels = images[mine], labels[mine]
        inputs = self.normalisation(images)
        with autocast(self.device, self.precision):
            logits = self.network(inputs)
            loss = training_loss(logits.float(), labels, recipe, self.teacher, inputs)
        self.optimizer.zero_grad(set_to_none=True)
        # The mean over ranks of these is the mean over the whole batch.
        (loss * (len(labels) * self.ranks.size / max(len(where), self.ranks.size))).backward()
        lr = recipe.rate(self.step, self.steps_per_epoch)
        self.optimizer.param_groups[0]["lr"] = lr
        with torch.no_grad():
            torch._foreach_mul_(self.decayed, 1 - lr * recipe.weight_decay)
        self.optimizer.step()
        self.loss_sum += loss.detach() * len(labels)
        self.hits += (logits.detach().argmax(1) == labels).sum()
        self.step += 1
        self.seconds += time.perf_counter() - start
        return len(where)

    def check_finite(self) -> None:
        state = self.model.state_dict().values()  # batch norm's statistics too
        self.require(bool(self.loss_sum.isfinite()) and all(bool(value.isfinite().all()) for value in state))

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
        start = time.perf_counter()
        self.average_buffers()
        found = predictions(self.model, self.data.val, self.normalisation, self.precision, label)
        self.require(bool((found >= 0).all()))
        val = 100 * int((found == self.data.val.labels).sum()) / len(found)
        self.seconds += time.perf_counter() - start
        n = len(self.data.train)
        self.history.append(
            Epoch(
                epoch=len(self.history) + 1,
                lr=self.recipe.rate(self.step, self.steps_per_epoch),
                train_loss=float(self.ranks.add(self.loss_sum)) / n,
                train_accuracy=100 * int(self.ranks.add(self.hits)) / n,
                val_accuracy=val,
                seconds=round(self.seconds, 3),
            )
        )
        settled = self.masking is None or self.masking.settled(self.step, self.total_steps)
        if settled and val >= self.best["accuracy"]:
            self.best = {"accuracy": val, "model": _cloned(self.model.state_dict())}
        self.seconds = 0.0
        self.loss_sum.zero_()
        self.hits.zero_()
        self.good = self.snapshot()

    def progress(self) -> dict[str, str]:
        seen = self.images_done() % len(self.data.train) / self.ranks.size  # none at an epoch's end
        shown = (
            {"loss": f"{float(self.loss_sum) / seen:.3f}", "train": f"{100 * int(self.hits) / seen:.1f}%"}
            if seen
            else {}
        )
        if self.history:
            shown["val"] = f"{self.history[-1].val_accuracy:.2f}%"
        return shown

    def snapshot(self) -> dict[str, Any]:
        """Copies of everything that a rerun needs, as plain types and tensors."""
        self.average_buffers()
        sums = torch.stack([self.loss_sum, self.hits.double()])
        loss_sum, hits = self.ranks.add(sums.clone()).tolist()
        return {
            "key": self.key,
            "step": self.step,
            "seconds": self.seconds,
            "loss_sum": loss_sum,
            "hits": int(hits),
            "model": _cloned(self.model.state_dict()),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "best": self.best,
            "history": [asdict(epoch) for epoch in self.history],
        }

    def save(self, snapshot: dict[str, Any]) -> None:
        if self.partial is not None and self.ranks.leads:
            save_partial(self.partial, snapshot)

    def resume(self) -> None:
        """Go on from ``partial`` where it is of this very work."""
        mine = self.partial is not None and self.ranks.leads
        saved = self.ranks.lead(find_partial(self.partial, self.key) if mine and self.partial else None)
        if saved is None:
            return
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.seconds, self.best = saved["step"], saved["seconds"], saved["best"]
        self.loss_sum.fill_(saved["loss_sum"] if self.ranks.leads else 0)
        self.hits.fill_(saved["hits"] if self.ranks.leads else 0)
        self.history = [Epoch(**row) for row in saved["history"]]
        self.good = self.snapshot()

    def average_buffers(self) -> None:
        """Batch norm's statistics become the mean over the ranks: that is linear, so it may be done at any step."""
        for buffer in self.model.buffers() if self.ranks.size > 1 else ():
            if buffer.is_floating_point():
                self.ranks.add(buffer).div_(self.ranks.size)

    def finish(self) -> list[Epoch]:
        self.model.load_state_dict(self.best["model"])
        self.model.eval()
        self.save(self.good)
        return self.history


def _key(model: nn.Module, data: DataSet, recipe: Recipe, precision: str, masking: str) -> str:
    """Fingerprint of all that decides the outcome: start weights, data and its limits, recipe, precision."""
    sizes = [len(data.train), len(data.val)]
    tensors = [value.detach().cpu().contiguous().view(-1).numpy().data for value in model.state_dict().values()]
    return fingerprint(asdict(recipe), data.fingerprint, sizes, precision, masking, list(model.state_dict()), *tensors)


def _mix(seed: int, index: int, stream: int) -> int:
    return (seed * 1_000_003 + index) * 4 + stream


def _cloned(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}
