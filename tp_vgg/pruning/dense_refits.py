"""A layer of a dense network is refitted many times here, from sums that are taken once."""

from __future__ import annotations

import copy

import torch
from torch import nn

from tp_vgg.network.families import segments
from tp_vgg.network.network import Network, Segment
from tp_vgg.pruning.normal_equations import ConvSums
from tp_vgg.pruning.paired_walk import Activations
from tp_vgg.pruning.refit import conv_correction, linear_correction, refit, relative_error
from tp_vgg.pruning.repair_sample import RepairSample


class DenseRefits:
    """These refit one layer of a dense network for several prunings, each by itself.

    The layers before it are as they were, so that all prunings share the layer's inputs and what it
    should give. Each refitted layer is that of :func:`tp_vgg.repair` with ``layers=[name]`` after
    the same pruning, up to rounding.
    """

    def __init__(
        self, layer: nn.Conv2d | nn.Linear, inputs: Activations, sample: RepairSample, seed: int
    ) -> None:
        self._layer = layer
        held: list[tuple[torch.Tensor, torch.Tensor]] = []
        fitted: list[tuple[torch.Tensor, torch.Tensor]] = []
        sums = None
        if isinstance(layer, nn.Conv2d):
            sums = ConvSums(layer, torch.Generator().manual_seed(seed))
        for number, block in enumerate(inputs):
            pair = block, layer(block)
            if number < sample.held_blocks:
                held.append(pair)
            elif sums is not None:
                sums.add(*pair)
            else:
                fitted.append(pair)
        self._sums, self._held = sums, held
        if fitted:
            self._inputs, self._wanted = (torch.cat(parts) for parts in zip(*fitted, strict=True))

    def narrowed(self, kept: torch.Tensor, reads: int) -> nn.Conv2d | nn.Linear:
        """Return a copy of the layer that reads only the channels ``kept``, refitted.

        ``kept``: int64 [inputs], in the order in which the copy reads them. ``reads``: elements
        that it reads for each channel; for a conv, 1.
        """
        columns = kept
        if reads > 1:
            elements = torch.arange(reads, device=kept.device)
            columns = (kept[:, None] * reads + elements).flatten()
        narrow = copy.deepcopy(self._layer)
        narrow.weight = nn.Parameter(narrow.weight[:, columns].contiguous(), requires_grad=False)
        if isinstance(narrow, nn.Conv2d):
            narrow.in_channels = len(kept)
        else:
            narrow.in_features = len(columns)
        return self._refitted(narrow, columns, reads)

    def masked(self, mask: torch.Tensor, reads: int) -> nn.Conv2d | nn.Linear:
        """Return a copy of the layer whose weights are zero outside of ``mask``, refitted.

        ``mask``: bool, in the shape of the weight.
        """
        masked = copy.deepcopy(self._layer)
        masked.weight = nn.Parameter(masked.weight * mask, requires_grad=False)
        return self._refitted(masked, None, reads)

    def _refitted(
        self, layer: nn.Conv2d | nn.Linear, columns: torch.Tensor | None, reads: int
    ) -> nn.Conv2d | nn.Linear:
        def read(x: torch.Tensor) -> torch.Tensor:
            return x if columns is None else x[:, columns]

        if isinstance(layer, nn.Conv2d):
            assert self._sums is not None
            found = conv_correction(layer, self._sums.equations(layer.weight, layer.bias, columns))
        else:
            found = linear_correction(layer, read(self._inputs), self._wanted, reads)
        refit(layer, found, lambda: relative_error(layer, ((read(x), y) for x, y in self._held)))
        return layer


class DenseWalk:
    """A dense walk takes a sample through a network, from layer to layer."""

    def __init__(self, model: Network, sample: RepairSample) -> None:
        self._segments, self._sample = segments(model), sample
        self._ahead: list[Segment] = []

    def inputs_of(self, name: str) -> tuple[Segment, Activations]:
        """Return the segment of the layer ``name`` and its inputs.

        The inputs are those of the segment until the next call. For a layer before that of the
        last call, the walk begins anew.
        """
        if name not in [part.name for part in self._ahead]:
            self._ahead = list(self._segments)
            self._activations = Activations(self._sample.blocks)
        try:
            while self._ahead[0].name != name:
                part = self._ahead.pop(0)
                for block in self._activations:
                    self._activations.move(part.layer(block), part.rest)
                self._activations.moved(part.layer, part.rest)
        except BaseException:  # out of memory or Ctrl-C in the middle: the next call begins anew
            self._ahead = []
            raise
        return self._ahead[0], self._activations
