"""One layer at several levels: its logits at each of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from tp_vgg.sensitivity.chain import Chain
from tp_vgg.sensitivity.fused_layer import Buffers

LEVEL_BYTES = {"cpu": 256 << 20, "cuda": 4 << 30}
"""Outputs of several levels that are held at once, so that they share the work on their input."""


class LayerLevels(Protocol):
    """One layer at several levels, in one precision."""

    def logits(self, x: torch.Tensor, chosen: Sequence[int]) -> Iterator[torch.Tensor]:
        """Logits [n, classes] for the activations ``x`` at each of the ``chosen`` levels (by place) in turn; each is gone when the next is
        asked for."""
        ...


@dataclass(frozen=True)
class MaskedLevels:
    """The levels of an unstructured sweep: the layer's own weights differ, its input is the same."""

    chain: Chain
    place: int
    """Of the layer's step; ``x`` is that step's input."""
    weights: Sequence[torch.Tensor]
    """Prepared for the step's kernel, by level."""
    buffers: Buffers

    def logits(self, x: torch.Tensor, chosen: Sequence[int]) -> Iterator[torch.Tensor]:
        step = self.chain.steps[self.place]
        for group in _groups(chosen, x, step.output_shape):
            outputs = _outputs(self.buffers, x, step.output_shape, len(group))
            self.chain.kernels[self.place].run_weights(
                step, x, [self.weights[i] for i in group], outputs
            )
            for output in outputs:
                yield self.chain.logits(output, self.chain.follows(self.place), self.buffers)


@dataclass(frozen=True)
class NarrowedLevels:
    """The levels of a structured sweep: the next step sees the first channels of the layer's output, which the chain holds by
    falling importance."""

    chain: Chain
    place: int
    """Of the step after the layer's; ``x`` is its input."""
    counts: Sequence[int]
    """Channels kept, by level."""
    buffers: Buffers

    def logits(self, x: torch.Tensor, chosen: Sequence[int]) -> Iterator[torch.Tensor]:
        step = self.chain.steps[self.place]
        for group in _groups(chosen, x, step.output_shape):
            counts = sorted({self.counts[i] for i in group})
            outputs = _outputs(self.buffers, x, step.output_shape, len(counts))
            self.chain.kernels[self.place].run_prefixes(
                step, x, self.chain.prepared[self.place], counts, outputs
            )
            for i in group:
                yield self.chain.logits(
                    outputs[counts.index(self.counts[i])],
                    self.chain.follows(self.place),
                    self.buffers,
                )


def _groups(chosen: Sequence[int], x: torch.Tensor, shape: tuple[int, ...]) -> list[Sequence[int]]:
    """Levels in order, as many at a time as ``LEVEL_BYTES`` holds the outputs of."""
    size = max(
        1, LEVEL_BYTES[x.device.type] // (max(len(x), 1) * math.prod(shape) * x.element_size())
    )
    return [chosen[first : first + size] for first in range(0, len(chosen), size)]


def _outputs(
    buffers: Buffers, x: torch.Tensor, shape: tuple[int, ...], count: int
) -> list[torch.Tensor]:
    return [buffers.take(("level", i), x, shape) for i in range(count)]
