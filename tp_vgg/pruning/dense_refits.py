"""A layer of a dense network is refitted many times here, from sums that are taken once."""

from __future__ import annotations

import copy
from functools import cached_property
from math import prod

import torch
from torch import nn

from tp_vgg.network.families import segments
from tp_vgg.network.network import Network, Segment
from tp_vgg.pruning.least_squares import GramSystem
from tp_vgg.pruning.normal_equations import ConvSums, InputSums, linear_inputs
from tp_vgg.pruning.paired_walk import Activations
from tp_vgg.pruning.refit import (
    WIDEST_GRAM,
    Correction,
    as_correction,
    by_column,
    copies_of,
    gram_system,
    linear_correction,
    neighbours,
    one_of_equal,
    refit,
    relative_error,
    takes_gram,
)
from tp_vgg.pruning.repair_sample import RepairSample


class DenseRefits:
    """These refit one layer of a dense network for several prunings, each by itself.

    The layers before it are as they were, so that all prunings share the layer's inputs X, and what
    a pruned layer lacks is X times the weights that it lost. Each refitted layer is that of
    :func:`tp_vgg.repair` with ``layers=[name]`` after the same pruning, up to rounding.
    """

    def __init__(
        self,
        layer: nn.Conv2d | nn.Linear,
        reads: int,
        inputs: Activations,
        sample: RepairSample,
        seed: int,
    ) -> None:
        """Go through the inputs; ``reads``: elements read of each channel, 1 for a conv."""
        self._layer, self._reads = layer, reads
        self._held: list[tuple[torch.Tensor, torch.Tensor]] = []
        fitted: list[torch.Tensor] = []
        self._patches: ConvSums | None = None
        if isinstance(layer, nn.Conv2d):
            self._patches = ConvSums(layer, torch.Generator().manual_seed(seed))
        for number, block in enumerate(inputs):
            if number < sample.held_blocks:
                self._held.append((block, layer(block)))
            elif self._patches is not None:
                self._patches.add(block)
            else:
                fitted.append(block)
        self._equal = 1
        if fitted:
            self._inputs, self._equal = one_of_equal(torch.cat(fitted), reads)

    def narrowed(self, kept: torch.Tensor) -> nn.Conv2d | nn.Linear:
        """Return a copy of the layer that reads only the channels ``kept``, refitted.

        ``kept``: int64 [inputs], in the order in which the copy reads them.
        """
        columns = neighbours(kept, self._reads)
        narrow = copy.deepcopy(self._layer)
        narrow.weight = nn.Parameter(narrow.weight[:, columns].contiguous(), requires_grad=False)
        if isinstance(narrow, nn.Conv2d):
            narrow.in_channels = len(kept)
            taps = torch.arange(prod(narrow.kernel_size), device=kept.device)
            of_x = (taps[:, None] * self._layer.weight.shape[1] + kept).flatten()
        else:
            narrow.in_features = len(columns)
            of_x = neighbours(kept, self._reads // self._equal)
        refit(narrow, self._correction(narrow, of_x), lambda: self._error(narrow, columns))
        return narrow

    def masked(self, mask: torch.Tensor) -> nn.Conv2d | nn.Linear:
        """Return a copy of the layer whose weights are zero outside of ``mask``, refitted.

        ``mask``: bool, in the shape of the weight.
        """
        masked = copy.deepcopy(self._layer)
        masked.weight = nn.Parameter(masked.weight * mask, requires_grad=False)
        refit(masked, self._correction(masked, None), lambda: self._error(masked, None))
        return masked

    def _error(self, layer: nn.Module, columns: torch.Tensor | None) -> float:
        """Return the relative error on the held-out images of ``layer``, which reads ``columns``.

        ``None`` is all.
        """
        return relative_error(
            layer, ((x if columns is None else x[:, columns], y) for x, y in self._held)
        )

    def _correction(self, layer: nn.Conv2d | nn.Linear, columns: torch.Tensor | None) -> Correction:
        """Return the correction of ``layer``, which reads ``columns`` of X; ``None`` is all."""
        weight, bias = layer.weight.detach(), layer.bias is not None
        lost = by_column(self._layer.weight.detach(), self._equal)
        copies = copies_of(weight, self._equal)
        lost_columns: torch.Tensor | slice = slice(None)
        if columns is None:
            lost = lost - by_column(weight, self._equal)
        else:
            is_lost = torch.ones(lost.shape[1], dtype=torch.bool, device=lost.device)
            is_lost[columns] = False
            lost_columns = is_lost.nonzero()[:, 0]
            lost = lost[:, lost_columns]
        if isinstance(layer, nn.Linear) and not (
            self._inputs.shape[1] <= WIDEST_GRAM and takes_gram(len(self._inputs), copies)
        ):
            lacking = self._inputs[:, lost_columns] @ lost.T
            inputs = self._inputs if columns is None else self._inputs[:, columns]
            return linear_correction(weight, inputs, lacking, copies, self._equal, bias=bias)
        sums, system, scaled = self._sums, self._system, self._system.scaled[lost_columns]
        if columns is not None:
            scaled, sums = scaled[:, columns], sums.of_columns(columns)
            system = gram_system(sums)
        cross = (lost @ scaled).double() * self._system.ridge
        lacking_mean = lost.double() @ self._sums.mean[lost_columns]
        delta = system.solve(cross, copies)
        return as_correction(weight, delta, copies, self._equal, sums.mean, lacking_mean, bias=bias)

    @cached_property
    def _sums(self) -> InputSums:
        if self._patches is not None:
            return self._patches.inputs()
        return linear_inputs(self._inputs, bias=self._layer.bias is not None)

    @cached_property
    def _system(self) -> GramSystem:
        return gram_system(self._sums)


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
