"""One step of training: cut the batch out of the images, go forward and back, update; on CUDA replayed as one graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tp_vgg.data.augment import PAD, augment
from tp_vgg.machine.cuda_graph import Call
from tp_vgg.machine.precision import autocast
from tp_vgg.network.masks import detach_masked_weights
from tp_vgg.training.loss import training_loss
from tp_vgg.training.recipe import Recipe
from tp_vgg.training.setup import TrainingSetup

EAGER_STEPS = 3
"""Steps before a graph is captured: by then the optimiser has its momentum, and the libraries their plans."""


def draw_epoch(recipe: Recipe, epoch: int, images: int, flip: bool) -> torch.Tensor:
    """All that chance decides about an epoch's images, int64 [4, images] on the CPU, in the order in which they are seen; see
    :func:`tp_vgg.data.augment.augment` for the rows. It follows from the recipe's seed and the epoch (counted from 0) alone.

    With ``flip`` an image is turned in every second epoch; in which, is drawn once (Jordan 2024, alternating flip).
    """
    order = torch.randperm(images, generator=seeded(recipe.seed, epoch, 1))
    shifts = torch.randint(-PAD, PAD + 1, (2, images), generator=seeded(recipe.seed, epoch, 0))
    turned = torch.zeros_like(order)
    if flip:
        first = torch.randint(0, 2, (images,), generator=seeded(recipe.seed, 0, 3))
        turned = (first[order] + epoch) % 2
    return torch.stack([order, *shifts, turned])


def mixed(seed: int, index: int, stream: int) -> int:
    """The seed of one of four streams of random numbers, at one place in it."""
    return (seed * 1_000_003 + index) * 4 + stream


def seeded(seed: int, index: int, stream: int) -> torch.Generator:
    """A generator on the CPU, whose numbers are the same for every device."""
    return torch.Generator().manual_seed(mixed(seed, index, stream))


class TrainingStep:
    """SGD with Nesterov momentum and decoupled weight decay on batches of the train images, and what the steps have come to so far.

    With ``on_device`` the learning rate is a tensor on the device, so that a captured step can be replayed at another rate.
    """

    def __init__(
        self,
        model: nn.Module,
        setup: TrainingSetup,
        *,
        network: nn.Module | None = None,
        on_device: bool = False,
    ) -> None:
        """``network``: what is called in the place of ``model``, such as one that averages its gradients over processes."""
        self._model, self._network, self._split = model, network or model, setup.data.train
        self._recipe, self._precision, self._teacher = setup.recipe, setup.precision, setup.teacher
        self._device = setup.device
        self._normalise = setup.normalisation.on(self._device)
        self._decayed: list[torch.Tensor] = [p for p in model.parameters() if p.ndim > 1]
        self._rate: Any = torch.zeros((), device=self._device) if on_device else 0.0
        self._optimizer = torch.optim.SGD(
            model.parameters(),
            self._rate,
            momentum=setup.recipe.momentum,
            nesterov=setup.recipe.momentum > 0,
            fused=True,
        )
        self.loss_sum = torch.zeros((), device=self._device, dtype=torch.float64)
        """Of the images since :meth:`reset`."""
        self.hits = torch.zeros((), device=self._device, dtype=torch.int64)
        """Images since :meth:`reset` that the network got right as it saw them."""

    def __call__(self, draws: torch.Tensor, rate: float, share: float = 1.0) -> None:
        """Train on the images that ``draws`` names, at the learning rate ``rate``; ``share`` weighs their loss."""
        self.set_rate(rate)
        self.body(draws, share)

    def set_rate(self, rate: float) -> None:
        """The learning rate of the steps to come."""
        if isinstance(self._rate, torch.Tensor):
            self._rate.fill_(rate)
        else:
            self._rate = self._optimizer.param_groups[0]["lr"] = rate

    def body(self, draws: torch.Tensor, share: float = 1.0) -> None:
        """The step without what differs from one to the next: nothing in it waits for the device."""
        images, labels = augment(self._split, draws)
        inputs = self._normalise(images)
        with autocast(self._device, self._precision):
            logits = self._network(inputs)
            loss = training_loss(logits.float(), labels, self._recipe, self._teacher, inputs)
        self._optimizer.zero_grad(set_to_none=True)
        (loss * share).backward()
        with torch.no_grad():
            torch._foreach_mul_(self._decayed, 1 - self._rate * self._recipe.weight_decay)
        self._optimizer.step()
        detach_masked_weights(self._model)
        self.loss_sum += loss.detach() * len(labels)
        self.hits += (logits.detach().argmax(1) == labels).sum()

    def reset(self, loss_sum: float = 0.0, hits: int = 0) -> None:
        """Count from here on."""
        self.loss_sum.fill_(loss_sum)
        self.hits.fill_(hits)

    def state(self) -> dict[str, Any]:
        """A copy of the optimiser's state, in plain types and tensors."""
        state = self._optimizer.state_dict()
        momentum = {
            index: {
                name: v.clone() if isinstance(v, torch.Tensor) else v for name, v in values.items()
            }
            for index, values in state["state"].items()
        }
        return {
            "state": momentum,
            "param_groups": [
                {**group, "lr": float(group["lr"])} for group in state["param_groups"]
            ],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self._optimizer.load_state_dict(state)
        self._optimizer.param_groups[0]["lr"] = self._rate


class ReplayedStep:
    """A :class:`TrainingStep` that becomes one CUDA graph for batches of ``size``: a small network's hundreds of kernels take the device
    less time than launching them takes a CPU. The first steps, and batches of other sizes, are run one by one."""

    def __init__(self, step: TrainingStep, size: int, capture: Callable[[Call], Call]) -> None:
        self._step, self._size, self._capture = step, size, capture
        self._draws: torch.Tensor | None = None
        self._replay: Call | None = None
        self._before = EAGER_STEPS

    def __call__(self, draws: torch.Tensor, rate: float) -> None:
        """:meth:`TrainingStep.__call__`."""
        if draws.shape[1] != self._size or self._before > 0:
            self._before -= 1
            self._step(draws, rate)
            return
        if self._draws is None:
            self._draws = draws.clone()
            self._replay = self._captured(self._draws)
        if self._replay is None:
            self._step(draws, rate)
            return
        self._step.set_rate(rate)
        self._draws.copy_(draws)
        self._replay()

    def _captured(self, draws: torch.Tensor) -> Call | None:
        step = (
            self._step
        )  # not `self`, which holds what comes of it: a circle would keep the graph's memory
        try:
            return self._capture(lambda: step.body(draws))
        except RuntimeError as error:
            why = next(iter(str(error).splitlines()), "")[:120]
            warnings.warn(
                f"this training step is no CUDA graph ({why}); going on without", stacklevel=2
            )
            return None
