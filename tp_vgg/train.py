"""fit(): one trainer for the baseline, for masked networks and for pruned ones; resumable at any step."""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from tp_vgg.data import DataSet, Normalisation, augment
from tp_vgg.device import autocast
from tp_vgg.errors import WorkFailed
from tp_vgg.evaluate import accuracy
from tp_vgg.interrupts import interrupts
from tp_vgg.partials import find_partial, save_partial
from tp_vgg.records import Epoch
from tp_vgg.storage import fingerprint

SAVE_EVERY = 60.0
"""Seconds of work that a kill can cost at most."""
CHECK_EVERY = 20
"""Steps between looks at the loss (each look waits for the device)."""


@dataclass(frozen=True)
class Recipe:
    """How to train. SGD with Nesterov momentum, label smoothing, decoupled weight decay on convs and linears."""

    epochs: int
    lr: float
    """Peak learning rate."""
    batch_size: int = 128
    schedule: Literal["one-cycle", "triangular"] = "one-cycle"
    """One-cycle anneals by cosine (Smith & Topin 2018), triangular by straight lines."""
    warmup: float = 0.2
    """Fraction of all steps before the peak."""
    momentum: float = 0.9
    weight_decay: float = 5e-3
    """Decoupled: a step shrinks weights by lr · weight_decay (5e-3 acts as the classical 5e-4 at momentum 0.9)."""
    label_smoothing: float = 0.1
    seed: int = 0
    distill_weight: float = 0.0
    """Share of the teacher's loss, in [0, 1]; 0 needs no teacher. Source: Hinton et al. 2015."""
    distill_temperature: float = 4.0


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
) -> list[Epoch]:
    """Train ``model`` in place on ``data.train`` and leave it, in eval mode, at its best epoch on ``data.val``.

    ``partial``: where unfinished work is kept (saved each minute and on Ctrl-C, removed by the caller once the result is under its final
    name). A rerun with the same weights, data and recipe goes on from it and ends at the same numbers.
    Raises :class:`KeyboardInterrupt` after saving, and :class:`WorkFailed` on a non-finite loss, with the
    last good epoch kept in ``partial``.
    """
    run = _Run(model, data, recipe, normalisation, precision, teacher, partial)
    run.resume()
    total = recipe.epochs * len(data.train)
    with (
        interrupts() as interrupted,
        tqdm(desc=label, total=total, initial=run.images_done(), unit="img", disable=quiet or None) as bar,
    ):
        last_save = time.monotonic()
        while run.step < run.total_steps:
            seen = run.train_step()
            bar.update(seen)
            if run.step % CHECK_EVERY == 0 or run.at_epoch_end:
                run.check_finite()
                if run.at_epoch_end:
                    run.end_epoch()
                bar.set_postfix(run.progress())
            if interrupted or time.monotonic() - last_save > SAVE_EVERY:
                run.check_finite()
                run.save(run.snapshot())
                last_save = time.monotonic()
            if interrupted:
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
    ) -> None:
        self.model, self.data, self.recipe = model, data, recipe
        self.normalisation, self.precision, self.teacher, self.partial = normalisation, precision, teacher, partial
        self.device = data.train.labels.device
        self.steps_per_epoch = -(-len(data.train) // recipe.batch_size)
        self.total_steps = recipe.epochs * self.steps_per_epoch
        model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # nn.Module.to has it
        model.train()
        self.key = _key(model, data, recipe, str(precision))
        self.decayed: list[torch.Tensor] = [p for p in model.parameters() if p.ndim > 1]
        self.optimizer = torch.optim.SGD(
            model.parameters(), recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=True
        )
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            recipe.lr,
            total_steps=self.total_steps + 1,
            pct_start=max(recipe.warmup, 1.5 / (self.total_steps + 1)),  # below one step torch divides by zero
            anneal_strategy="cos" if recipe.schedule == "one-cycle" else "linear",
            cycle_momentum=False,
        )
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
        order = torch.randperm(
            len(self.data.train), generator=torch.Generator().manual_seed(_mix(recipe.seed, epoch, 1))
        )
        where = order[index * recipe.batch_size : (index + 1) * recipe.batch_size]
        torch.manual_seed(_mix(recipe.seed, self.step, 2))
        images, labels = augment(self.data.train, where, self.data.flip, torch.default_generator)
        inputs = self.normalisation(images)
        with autocast(self.device, self.precision):
            logits = self.model(inputs)
            loss = self._loss(logits.float(), labels, inputs)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        lr = float(self.scheduler.get_last_lr()[0])
        with torch.no_grad():
            torch._foreach_mul_(self.decayed, 1 - lr * recipe.weight_decay)
        self.optimizer.step()
        self.scheduler.step()
        self.loss_sum += loss.detach() * len(labels)
        self.hits += (logits.detach().argmax(1) == labels).sum()
        self.step += 1
        self.seconds += time.perf_counter() - start
        return len(labels)

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        recipe = self.recipe
        hard = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        if self.teacher is None or recipe.distill_weight == 0:
            return hard
        with torch.no_grad():
            target = (self.teacher(inputs).float() / recipe.distill_temperature).log_softmax(1)
        soft = F.kl_div(
            (logits / recipe.distill_temperature).log_softmax(1), target, reduction="batchmean", log_target=True
        )
        return (1 - recipe.distill_weight) * hard + recipe.distill_weight * recipe.distill_temperature**2 * soft

    def check_finite(self) -> None:
        if self.loss_sum.isfinite() and all(bool(p.isfinite().all()) for p in self.model.parameters()):
            return
        self.save(self.good)
        kept = f"; the last good epoch is kept in {self.partial}" if self.partial else ""
        raise WorkFailed(
            f"the loss became non-finite at step {self.step} of {self.total_steps}{kept}; try a smaller --lr"
        )

    def end_epoch(self) -> None:
        start = time.perf_counter()
        val = accuracy(self.model, self.data.val, self.normalisation, self.precision).accuracy
        self.seconds += time.perf_counter() - start
        n = len(self.data.train)
        self.history.append(
            Epoch(
                epoch=len(self.history) + 1,
                lr=float(self.scheduler.get_last_lr()[0]),
                train_loss=float(self.loss_sum) / n,
                train_accuracy=100 * int(self.hits) / n,
                val_accuracy=val,
                seconds=round(self.seconds, 3),
            )
        )
        if val >= self.best["accuracy"]:
            self.best = {"accuracy": val, "model": _cloned(self.model.state_dict())}
        self.seconds = 0.0
        self.loss_sum.zero_()
        self.hits.zero_()
        self.good = self.snapshot()

    def progress(self) -> dict[str, str]:
        seen = self.images_done() % len(self.data.train)  # none at an epoch's end
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
        return {
            "key": self.key,
            "step": self.step,
            "seconds": self.seconds,
            "loss_sum": float(self.loss_sum),
            "hits": int(self.hits),
            "model": _cloned(self.model.state_dict()),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "scheduler": copy.deepcopy(self.scheduler.state_dict()),
            "best": self.best,
            "history": [asdict(epoch) for epoch in self.history],
        }

    def save(self, snapshot: dict[str, Any]) -> None:
        if self.partial is not None:
            save_partial(self.partial, snapshot)

    def resume(self) -> None:
        """Go on from ``partial`` where it is of this very work."""
        saved = find_partial(self.partial, self.key) if self.partial is not None else None
        if saved is None:
            return
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        self.step, self.seconds, self.best = saved["step"], saved["seconds"], saved["best"]
        self.loss_sum.fill_(saved["loss_sum"])
        self.hits.fill_(saved["hits"])
        self.history = [Epoch(**row) for row in saved["history"]]
        self.good = self.snapshot()

    def finish(self) -> list[Epoch]:
        self.model.load_state_dict(self.best["model"])
        self.model.eval()
        self.save(self.good)
        return self.history


def estimate_seconds(
    model: nn.Module, data: DataSet, recipe: Recipe, normalisation: Normalisation, precision: torch.dtype
) -> float:
    """How long :func:`fit` will take here, from two small batches on a copy of the model."""
    device = data.train.labels.device
    probe = copy.deepcopy(model).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    count = min(32, len(data.train))
    inputs, labels = normalisation(data.train.images[:count]), data.train.labels[:count]
    best = float("inf")
    for _ in range(2):
        start = time.perf_counter()
        with autocast(device, precision):
            F.cross_entropy(probe(inputs).float(), labels).backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best / count * len(data.train) * recipe.epochs


def _key(model: nn.Module, data: DataSet, recipe: Recipe, precision: str) -> str:
    """Fingerprint of all that decides the outcome: start weights, data and its limits, recipe, precision."""
    sizes = [len(data.train), len(data.val)]
    tensors = [value.detach().cpu().contiguous().view(-1).numpy().data for value in model.state_dict().values()]
    return fingerprint(asdict(recipe), data.fingerprint, sizes, precision, list(model.state_dict()), *tensors)


def _mix(seed: int, index: int, stream: int) -> int:
    return (seed * 1_000_003 + index) * 4 + stream


def _cloned(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}
