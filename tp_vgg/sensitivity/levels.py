"""These classes compute the logits of a network with one layer at several pruning levels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from tp_vgg.sensitivity.chain import Chain
from tp_vgg.sensitivity.fused_layer import Buffers, FusedLayer
from tp_vgg.sensitivity.kernels import aligned

LEVEL_BYTES = {"cpu": 256 << 20, "cuda": 4 << 30}
"""Upper limit, by device type, on the bytes of outputs of several levels that are held at once.

Levels that are held at once share the work on their input.
"""


class LayerLevels(Protocol):
    """A LayerLevels computes the logits with one layer at several levels, in one precision."""

    def logits(self, x: torch.Tensor, chosen: Sequence[int]) -> Iterator[torch.Tensor]:
        """Yield the logits ``[n, classes]`` for the activations ``x`` at each chosen level in turn.

        ``chosen``: indices of levels. Each result is overwritten when the next one is computed.
        """
        ...


@dataclass(frozen=True)
class MaskedLevels:
    """Masked levels belong to an unstructured sweep: weights differ, the input is the same.

    Biases may differ too.
    """

    chain: Chain
    place: int
    """The pruned layer's place in the chain; ``x`` is the input of this layer."""
    layers: Sequence[FusedLayer]
    """The pruned layer at each level."""
    prepared: Sequence[torch.Tensor]
    """The weight of each of ``layers``, prepared for the layer's kernel."""
    buffers: Buffers

    @classmethod
    def of(
        cls, chain: Chain, place: int, layers: Sequence[FusedLayer], buffers: Buffers
    ) -> MaskedLevels:
        """Return the levels at which ``layers`` stand at ``place``, in the dtype of ``chain``."""
        kernel, dtype = chain.kernels[place], chain.layers[place].weight.dtype
        layers = [layer.to(dtype) for layer in layers]
        return cls(chain, place, layers, [kernel.prepare(x.weight) for x in layers], buffers)

    def logits(self, x: torch.Tensor, chosen: Sequence[int]) -> Iterator[torch.Tensor]:
        """Yield logits as :meth:`LayerLevels.logits` does."""
        layer = self.chain.layers[self.place]
        for group in _groups(chosen, x, layer.output_shape):
            outputs = _outputs(self.buffers, x, layer.output_shape, len(group))
            self.chain.kernels[self.place].run_weights(
                [self.layers[i] for i in group], x, [self.prepared[i] for i in group], outputs
            )
            for output in outputs:
                yield self.chain.logits(output, self.chain.follows(self.place), self.buffers)


@dataclass(frozen=True)
class NarrowedLevels:
    """Narrowed levels belong to a structured sweep: the layer keeps its first channels.

    The chain holds the pruned layer's channels by falling importance, so the layer behind it reads
    a prefix of the stored output.
    """

    chain: Chain
    place: int
    """Place of the layer behind the pruned one; ``x`` is the input of this layer."""
    counts: Sequence[int]
    """Channels kept, by level."""
    buffers: Buffers

    def logits(self, x: torch.Tensor, chosen: Sequence[int]) -> Iterator[torch.Tensor]:
        """Yield logits as :meth:`LayerLevels.logits` does."""
        layer = self.chain.layers[self.place]
        for group in _groups(chosen, x, layer.output_shape):
            counts = sorted({self.counts[i] for i in group})
            outputs = _outputs(self.buffers, x, layer.output_shape, len(counts))
            self.chain.kernels[self.place].run_prefixes(
                layer, x, self.chain.prepared[self.place], counts, outputs
            )
            for i in group:
                yield self.chain.logits(
                    outputs[counts.index(self.counts[i])],
                    self.chain.follows(self.place),
                    self.buffers,
                )


@dataclass(frozen=True)
class RefittedLevels:
    """Refitted levels belong to a structured sweep whose repair refits the layer that reads.

    At each level, this layer has other weights and reads the first channels of the stored output.
    """

    chain: Chain
    place: int
    """Place of the layer behind the pruned one; ``x`` is the input of this layer."""
    layers: Sequence[FusedLayer]
    """The layer at this place, at each level."""
    prepared: Sequence[torch.Tensor]
    """The weight of each of ``layers``, prepared for the layer's kernel."""
    counts: Sequence[int]
    """Channels that each of ``layers`` reads; a few more than are kept if that is faster."""
    buffers: Buffers

    @classmethod
    def of(
        cls,
        chain: Chain,
        place: int,
        layers: Sequence[FusedLayer],
        counts: Sequence[int],
        buffers: Buffers,
    ) -> RefittedLevels:
        """Return the levels at which ``layers`` stand at ``place``, in the dtype of ``chain``.

        ``counts``: the channels that each of ``layers`` reads.
        """
        kernel, whole = chain.kernels[place], chain.layers[place]
        elements = max(whole.head_pool, 1) ** 2
        most = whole.weight.shape[1] // elements
        widths = [aligned(count, most, whole.weight.dtype) for count in counts]
        padded = []
        for layer, width in zip(layers, widths, strict=True):
            weight = layer.weight.new_zeros(
                len(layer.weight), width * elements, *whole.weight.shape[2:]
            )
            weight[:, : layer.weight.shape[1]] = layer.weight
            padded.append(replace(layer, weight=weight).to(whole.weight.dtype))
        prepared = [kernel.prepare(layer.weight) for layer in padded]
        return cls(chain, place, padded, prepared, widths, buffers)

    def logits(self, x: torch.Tensor, chosen: Sequence[int]) -> Iterator[torch.Tensor]:
        """Yield logits as :meth:`LayerLevels.logits` does."""
        kernel, shape = self.chain.kernels[self.place], self.chain.layers[self.place].output_shape
        for i in chosen:
            (output,) = _outputs(self.buffers, x, shape, 1)
            read = x[..., : self.counts[i]].contiguous()
            kernel.run_weights([self.layers[i]], read, [self.prepared[i]], [output])
            yield self.chain.logits(output, self.chain.follows(self.place), self.buffers)


def _groups(chosen: Sequence[int], x: torch.Tensor, shape: tuple[int, ...]) -> list[Sequence[int]]:
    """Split ``chosen`` into groups whose outputs fit in ``LEVEL_BYTES``, one level at least."""
    size = max(
        1, LEVEL_BYTES[x.device.type] // (max(len(x), 1) * math.prod(shape) * x.element_size())
    )
    return [chosen[first : first + size] for first in range(0, len(chosen), size)]


def _outputs(
    buffers: Buffers, x: torch.Tensor, shape: tuple[int, ...], count: int
) -> list[torch.Tensor]:
    return [buffers.take(("level", i), x, shape) for i in range(count)]
