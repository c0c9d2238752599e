"""These sums over blocks of images are the normal equations of a layer's weights.

A weight's column is what it reads: for a conv, one input channel at one place of the kernel, which
is called a tap here. Of a conv, nothing of the size of all images times all columns is held.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
from torch import nn
from torch.nn.grad import conv2d_weight

from tp_vgg.pruning.pixel_pairs import PixelPairs, padding_of, pixel_pairs, pixels_read

POSITIONS = 64
"""Most positions of an output map that count; of a larger map they are drawn for each image."""
_STRIP = 256
"""Columns of a Gram matrix that are multiplied at a time; only its upper half is computed."""


@dataclass(frozen=True)
class InputSums:
    """These are sums over a layer's inputs X, in fp64; they are centred if the layer has a bias."""

    gram: torch.Tensor
    """XᵀX, [columns, columns]."""
    squares: torch.Tensor
    """Diagonal of XᵀX before it was centred, [columns]."""
    mean: torch.Tensor
    """Mean of X, [columns]; 0 if the layer has no bias."""

    def of_columns(self, columns: torch.Tensor) -> InputSums:
        """Return the sums over the inputs ``columns`` alone, int64 [columns]."""
        gram = self.gram[columns[:, None], columns]
        return InputSums(gram, self.squares[columns], self.mean[columns])


@dataclass(frozen=True)
class NormalEquations:
    """These are the sums that a regression of a layer's missing outputs r on its inputs X needs.

    They are fp64, and centred if the layer has a bias.
    """

    inputs: InputSums
    cross: torch.Tensor
    """rᵀX, [rows, columns]."""
    lacking_mean: torch.Tensor
    """Mean of r, [rows]; 0 if the layer has no bias."""

    def after(self, change: torch.Tensor) -> NormalEquations:
        """Return the equations of the layer whose weight is more by ``change``, [rows, columns]."""
        cross = self.cross - change @ self.inputs.gram
        return NormalEquations(self.inputs, cross, self.lacking_mean - change @ self.inputs.mean)


def as_matrix(weight: torch.Tensor) -> torch.Tensor:
    """Return a conv's or linear's weight as [rows, columns]; a conv's columns go tap by tap."""
    return weight if weight.ndim == 2 else weight.permute(0, 2, 3, 1).flatten(1)


def as_weight(matrix: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Return the weight of this ``shape`` of which :func:`as_matrix` made ``matrix``."""
    if len(shape) == 2:
        return matrix
    out, channels, height, width = shape
    return matrix.view(out, height, width, channels).permute(0, 3, 1, 2)


class ConvSums:
    """These sums over a conv's patches X and, if given, its wanted outputs Y grow block by block.

    At most :data:`POSITIONS` positions of each output map are drawn by ``generator``, a CPU
    generator. All blocks have maps of one size.
    """

    def __init__(self, conv: nn.Conv2d, generator: torch.Generator) -> None:
        rows, columns = len(conv.weight), prod(conv.weight.shape[1:])
        zeros = partial(torch.zeros, dtype=torch.float64, device=conv.weight.device)
        self._conv, self._generator = conv, generator
        self._gram, self._cross = zeros(columns, columns), zeros(rows, columns)
        self._input, self._wanted = zeros(columns), zeros(rows)
        self._count = 0
        self._read: torch.Tensor | None = None
        self._products: list[tuple[PixelPairs, torch.Tensor]] = []
        self._ended = False

    def add(self, inputs: torch.Tensor, wanted: torch.Tensor | None = None) -> None:
        """Count inputs [n, channels, H, W] and the wanted outputs [n, rows, H', W'], if any."""
        assert not self._ended
        if self._read is None:
            out = self._conv(inputs[:1]).shape[2:]
            read = pixels_read(self._conv, inputs.shape[2:], out)
            self._read = read.to(inputs.device)
            if len(read) <= POSITIONS:
                channels = inputs.shape[1]
                self._products = [
                    (pairs, self._gram.new_zeros(channels, channels))
                    for pairs in pixel_pairs(self._read, prod(inputs.shape[2:]))
                ]
        if self._products:
            self._add_all(inputs, wanted, self._read)
        else:
            self._add_drawn(inputs, wanted, self._read)

    def _add_all(
        self, inputs: torch.Tensor, wanted: torch.Tensor | None, read: torch.Tensor
    ) -> None:
        pixels = inputs.flatten(2).permute(2, 0, 1).contiguous()
        for pairs, product in self._products:
            first, second = pixels[pairs.first], pixels[pairs.second]
            product += first.flatten(0, 1).T @ second.flatten(0, 1)
        sums = pixels.sum(1, dtype=torch.float64)
        sums = torch.cat([sums, torch.zeros_like(sums[:1])])  # the last one is the padding
        self._input += sums[read].sum(0).flatten()
        self._count += len(read) * len(inputs)
        if wanted is not None:
            conv = self._conv
            self._cross += as_matrix(
                conv2d_weight(
                    inputs, conv.weight.shape, wanted, conv.stride, padding_of(conv), conv.dilation
                )
            )
            self._wanted += wanted.sum((0, 2, 3), dtype=torch.float64)

    def _add_drawn(
        self, inputs: torch.Tensor, wanted: torch.Tensor | None, read: torch.Tensor
    ) -> None:
        drawn = torch.rand(len(inputs), len(read), generator=self._generator, dtype=torch.float32)
        drawn = drawn.topk(min(POSITIONS, len(read))).indices.to(read.device)
        image = torch.arange(len(inputs), device=read.device)[:, None]
        pixels, taken = inputs.flatten(2).transpose(1, 2), read[drawn]
        padding = (taken == pixels.shape[1])[..., None]
        patches = pixels[image[:, :, None], taken.clamp(max=pixels.shape[1] - 1)]
        patches = patches.masked_fill_(padding, 0).flatten(2).flatten(0, 1)
        _add_gram(self._gram, patches)
        self._input += patches.sum(0, dtype=torch.float64)
        self._count += len(patches)
        if wanted is not None:
            outputs = wanted.flatten(2).transpose(1, 2)[image, drawn].flatten(0, 1)
            self._cross += outputs.T @ patches
            self._wanted += outputs.sum(0, dtype=torch.float64)

    def equations(self) -> NormalEquations:
        """Return the equations of r = Y − XW − bias, for the conv's weight and bias.

        It is called at most once, and the sums must not grow afterwards.
        """
        bias = self._conv.bias
        matrix = as_matrix(self._conv.weight).double()
        gram = self._whole_gram()
        cross = self._cross - matrix @ gram
        lacking = self._wanted - matrix @ self._input
        if bias is not None:
            cross -= torch.outer(bias.double(), self._input)
            lacking -= bias.double() * self._count
        return _centred(gram, cross, self._input, lacking, self._count, bias=bias is not None)

    def inputs(self) -> InputSums:
        """Return the sums over the inputs, under the terms of :meth:`equations`."""
        bias = self._conv.bias is not None
        return _input_sums(self._whole_gram(), self._input, self._count, bias=bias)

    def _whole_gram(self) -> torch.Tensor:
        """Put the Gram matrix together."""
        assert not self._ended
        gram, channels = self._gram, self._conv.in_channels
        for pairs, product in self._products:
            for row, column in pairs.taps:
                upper = gram[row * channels :, column * channels :]
                upper[:channels, :channels] += product
        _mirror(gram, channels if self._products else _STRIP)
        self._products, self._ended = [], True
        return gram


def conv_equations(
    conv: nn.Conv2d, blocks: Iterable[tuple[torch.Tensor, torch.Tensor]], generator: torch.Generator
) -> NormalEquations:
    """Return the normal equations of ``conv`` over blocks of (inputs, wanted outputs).

    The arguments are those of :class:`ConvSums`.
    """
    sums = ConvSums(conv, generator)
    for inputs, wanted in blocks:
        sums.add(inputs, wanted)
    return sums.equations()


def linear_equations(inputs: torch.Tensor, lacking: torch.Tensor, *, bias: bool) -> NormalEquations:
    """Return the normal equations of a linear layer, of inputs [n, columns] and r [n, rows]."""
    sums = inputs.sum(0, dtype=torch.float64), lacking.sum(0, dtype=torch.float64)
    cross = (lacking.T @ inputs).double()
    return _centred(_gram(inputs), cross, *sums, len(inputs), bias=bias)


def linear_inputs(inputs: torch.Tensor, *, bias: bool) -> InputSums:
    """Return the sums over the inputs of a linear layer, fp32 [n, columns]."""
    total = inputs.sum(0, dtype=torch.float64)
    return _input_sums(_gram(inputs), total, len(inputs), bias=bias)


def _centred(
    gram: torch.Tensor,
    cross: torch.Tensor,
    input_sum: torch.Tensor,
    lacking_sum: torch.Tensor,
    count: int,
    *,
    bias: bool,
) -> NormalEquations:
    inputs, lacking_mean = _input_sums(gram, input_sum, count, bias=bias), lacking_sum / count
    if not bias:
        return NormalEquations(inputs, cross, 0 * lacking_mean)
    cross = torch.addr(cross, lacking_mean, inputs.mean, alpha=-count)
    return NormalEquations(inputs, cross, lacking_mean)


def _input_sums(gram: torch.Tensor, total: torch.Tensor, count: int, *, bias: bool) -> InputSums:
    """Centre ``gram``, in place, unless there is no ``bias``."""
    squares, mean = gram.diagonal().clone(), total / count
    if not bias:
        return InputSums(gram, squares, 0 * mean)
    return InputSums(gram.addr_(mean, mean, alpha=-count), squares, mean)


def _gram(x: torch.Tensor) -> torch.Tensor:
    """Return xᵀx, fp64 [columns, columns]; ``x`` is fp32 [samples, columns]."""
    total = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
    _add_gram(total, x)
    _mirror(total, _STRIP)
    return total


def _add_gram(total: torch.Tensor, x: torch.Tensor) -> None:
    """Add the upper half of xᵀx to ``total``, in place; ``x`` is fp32 [samples, columns]."""
    for start in range(0, x.shape[1], _STRIP):
        strip = x[:, start : start + _STRIP]
        total[start : start + _STRIP, start:] += strip.T @ x[:, start:]


def _mirror(total: torch.Tensor, strip: int) -> None:
    """Copy what is right of each diagonal block of ``strip`` columns to below it, in place."""
    for start in range(0, len(total), strip):
        end = start + strip
        total[end:, start:end] = total[start:end, end:].T
