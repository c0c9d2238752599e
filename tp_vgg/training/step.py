"""A training step augments a batch and updates the weights on it.

On one GPU, in one process, the step is captured once as a CUDA graph and then replayed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import nn

from tp_vgg.data.augment import PAD, augment
from tp_vgg.machine.cuda_graph import Call
from tp_vgg.training.recipe import Recipe
from tp_vgg.training.setup import TrainingSetup
from tp_vgg.training.update import Update

EAGER_STEPS = 3
"""Steps that run before the capture of a CUDA graph.

They create the optimiser's momentum and let the libraries choose their algorithms.
"""


def draw_epoch(recipe: Recipe, epoch: int, images: int, flip: bool) -> torch.Tensor:
    """Return an epoch's random numbers: the order of its images, their shifts and their flips.

    The result is int64 [4, images] on the CPU, one column per image in the order of training; see
    :func:`tp_vgg.data.augment.augment` for the rows. It depends on the recipe's seed, on ``epoch``
    (counted from 0) and on the other arguments alone.

    With ``flip``, each image is mirrored in every second epoch; it is drawn once per image whether
    that starts with the first epoch or the second (alternating flip, Jordan 2024).
    """
    order = torch.randperm(images, generator=stream_generator(recipe.seed, epoch, 1))
    shifts = torch.randint(
        -PAD, PAD + 1, (2, images), generator=stream_generator(recipe.seed, epoch, 0)
    )
    flipped = torch.zeros_like(order)
    if flip:
        first = torch.randint(0, 2, (images,), generator=stream_generator(recipe.seed, 0, 3))
        flipped = (first[order] + epoch) % 2
    return torch.stack([order, *shifts, flipped])


def stream_seed(seed: int, index: int, stream: int) -> int:
    """Return the seed of random stream 0, 1, 2 or 3 at ``index`` (an epoch or a step)."""
    return (seed * 1_000_003 + index) * 4 + stream


def stream_generator(seed: int, index: int, stream: int) -> torch.Generator:
    """Return a generator seeded by :func:`stream_seed`.

    It is on the CPU, so that its numbers do not depend on the training's device.
    """
    return torch.Generator().manual_seed(stream_seed(seed, index, stream))


class TrainingStep(Update):
    """A training step is an :class:`Update` on augmented images of a setup's training split.

    ``network`` and ``on_device``: see :class:`Update`.
    """

    def __init__(
        self,
        model: nn.Module,
        setup: TrainingSetup,
        *,
        network: nn.Module | None = None,
        on_device: bool = False,
    ) -> None:
        super().__init__(
            model,
            setup.recipe,
            setup.device,
            precision=setup.precision,
            teacher=setup.teacher,
            network=network,
            on_device=on_device,
        )
        self._split, self._normalise = setup.data.train, setup.normalisation.on(setup.device)

    def __call__(self, draws: torch.Tensor, rate: float, loss_weight: float = 1.0) -> None:
        """Train on the images that ``draws`` names, at the learning rate ``rate``.

        ``draws``: int64 [4, B], columns of :func:`draw_epoch`. ``loss_weight`` multiplies the mean
        loss of the batch.
        """
        self.set_rate(rate)
        self.body(draws, loss_weight)

    def body(self, draws: torch.Tensor, loss_weight: float = 1.0) -> None:
        """Train on one batch at the learning rate that is set.

        Nothing in it waits for the device, so that it can be captured as a CUDA graph.
        """
        images, labels = augment(self._split, draws)
        self.train_on(self._normalise(images), labels, loss_weight)


class ReplayedStep:
    """A replayed step runs a :class:`TrainingStep` as one CUDA graph on batches of ``size`` images.

    A small network's step has hundreds of kernels, and the CPU needs longer to launch them than the
    GPU to run them. The first steps and batches of other sizes run without the graph. If
    ``capture`` fails, a warning is given and all steps run without it.
    """

    def __init__(self, step: TrainingStep, size: int, capture: Callable[[Call], Call]) -> None:
        self._step, self._size, self._capture = step, size, capture
        self._draws: torch.Tensor | None = None
        self._replay: Call | None = None
        self._before = EAGER_STEPS

    def __call__(self, draws: torch.Tensor, rate: float) -> None:
        """Train on a batch, as :class:`TrainingStep` does with a ``loss_weight`` of 1."""
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
        # The lambda must not refer to `self`, which holds the graph: a reference cycle would keep
        # the graph's memory.
        step = self._step
        try:
            return self._capture(lambda: step.body(draws))
        except RuntimeError as error:
            reason = next(iter(str(error).splitlines()), "")[:120]
            warnings.warn(
                f"this training step can't be a CUDA graph ({reason}); going on without one",
                stacklevel=2,
            )
            return None
