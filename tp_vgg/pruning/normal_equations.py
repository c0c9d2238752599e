"""These sums over blocks of images are the normal equations of a layer's weights.

A weight's column is what it reads: for a conv, one input channel at one place of the kernel.
Nothing of the size of all images times all columns is held.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.grad import conv2d_weight

POSITIONS = 64
"""Most positions of an output map that count, drawn anew for each image."""
_SMALL_MAP = 16
"""Positions of an output map up to which all pairs of its inputs' values are summed."""
_WIDEST_MAP = 8192
"""Most values of the input of such a map."""
_STRIP = 1024
"""Columns of a Gram matrix that are multiplied at a time; only its upper half is computed."""


@dataclass(frozen=True)
class NormalEquations:
    """These are the sums that a regression of a layer's missing outputs on its inputs needs.

    They are fp64, and centred if the layer has a bias.
    """

    gram: torch.Tensor
    """XᵀX, [columns, columns]."""
    mean_square: float
    """Mean of the diagonal of XᵀX before it was centred."""
    cross: torch.Tensor
    """rᵀX, [rows, columns]."""
    input_mean: torch.Tensor
    """Mean of X, [columns]."""
    lacking_mean: torch.Tensor
    """Mean of r, [rows]."""


def as_matrix(weight: torch.Tensor) -> torch.Tensor:
    """Return a conv's or linear's weight as [rows, columns]; a conv's columns go tap by tap."""
    return weight if weight.ndim == 2 else weight.permute(0, 2, 3, 1).flatten(1)


def as_weight(matrix: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Return the weight of this ``shape`` of which :func:`as_matrix` made ``matrix``."""
    if len(shape) == 2:
        return matrix
    out, channels, height, width = shape
    return matrix.view(out, height, width, channels).permute(0, 3, 1, 2)


def conv_equations(
    conv: nn.Conv2d, blocks: Iterable[tuple[torch.Tensor, torch.Tensor]], generator: torch.Generator
) -> NormalEquations:
    """Return the normal equations of ``conv`` over blocks of (inputs, wanted outputs).

    The inputs are [n, channels, H, W], the wanted outputs [n, rows, H', W']. At most
    :data:`POSITIONS` positions of each output map are drawn by ``generator``, a CPU generator.
    """
    device, rows = conv.weight.device, len(conv.weight)
    columns = prod(conv.weight.shape[1:])
    gram = torch.zeros(columns, columns, dtype=torch.float64, device=device)
    cross = torch.zeros(rows, columns, dtype=torch.float64, device=device)
    input_sum = torch.zeros(columns, dtype=torch.float64, device=device)
    lacking_sum = torch.zeros(rows, dtype=torch.float64, device=device)
    weight, map_gram, count = None, None, 0
    for inputs, wanted in blocks:
        taps = _read_by(conv, inputs.shape[2:], wanted.shape[2:]).to(device)
        pixels = inputs.flatten(2).transpose(1, 2)
        if len(taps) <= _SMALL_MAP and prod(pixels.shape[1:]) <= _WIDEST_MAP:
            lacking = wanted - conv(inputs)
            cross += as_matrix(_weight_gradient(conv, inputs, lacking))
            lacking_sum += lacking.sum((0, 2, 3), dtype=torch.float64)
            if map_gram is None:
                size = prod(pixels.shape[1:])
                map_gram = torch.zeros(size, size, dtype=torch.float64, device=device)
            _add_gram(map_gram, pixels.flatten(1))
            input_sum += _padded(pixels.sum(0, dtype=torch.float64))[taps].sum(0).flatten()
            count += len(taps) * len(inputs)
            continue
        if weight is None:
            weight = as_matrix(conv.weight)
        drawn = _draw(len(inputs), len(taps), generator).to(device)
        image = torch.arange(len(inputs), device=device)[:, None]
        patches = _padded(pixels)[image[:, :, None], taps[drawn]].flatten(2).flatten(0, 1)
        lacking = wanted.flatten(2).transpose(1, 2)[image, drawn].flatten(0, 1)
        lacking = lacking.sub_(F.linear(patches, weight, conv.bias))
        cross += lacking.T @ patches
        lacking_sum += lacking.sum(0, dtype=torch.float64)
        _add_gram(gram, patches)
        input_sum += patches.sum(0, dtype=torch.float64)
        count += len(patches)
    if map_gram is None:
        _mirror(gram)
    else:
        _mirror(map_gram)
        _patch_gram(gram, map_gram, taps)
    return _centred(gram, cross, input_sum, lacking_sum, count, bias=conv.bias is not None)


def _weight_gradient(conv: nn.Conv2d, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """Return the sum of the products of ``outputs`` with the patches they read, as a weight."""
    gradient: torch.Tensor = conv2d_weight(
        inputs, conv.weight.shape, outputs, conv.stride, conv.padding, conv.dilation
    )
    return gradient


def linear_equations(inputs: torch.Tensor, lacking: torch.Tensor, *, bias: bool) -> NormalEquations:
    """Return the normal equations of a linear layer, of inputs [n, columns] and r [n, rows]."""
    gram = torch.zeros(inputs.shape[1], inputs.shape[1], dtype=torch.float64, device=inputs.device)
    _add_gram(gram, inputs)
    sums = inputs.sum(0, dtype=torch.float64), lacking.sum(0, dtype=torch.float64)
    cross = (lacking.T @ inputs).double()
    _mirror(gram)
    return _centred(gram, cross, *sums, len(inputs), bias=bias)


def _centred(
    gram: torch.Tensor,
    cross: torch.Tensor,
    input_sum: torch.Tensor,
    lacking_sum: torch.Tensor,
    count: int,
    *,
    bias: bool,
) -> NormalEquations:
    input_mean, lacking_mean = input_sum / count, lacking_sum / count
    mean_square = float(gram.diagonal().mean())
    if not bias:
        return NormalEquations(gram, mean_square, cross, 0 * input_mean, 0 * lacking_mean)
    gram = torch.addr(gram, input_mean, input_mean, alpha=-count)
    cross = torch.addr(cross, lacking_mean, input_mean, alpha=-count)
    return NormalEquations(gram, mean_square, cross, input_mean, lacking_mean)


def _padded(pixels: torch.Tensor) -> torch.Tensor:
    """Return ``pixels`` [..., pixels, channels] with a last one of zeros, which is the padding."""
    return F.pad(pixels, (0, 0, 0, 1))


def _read_by(conv: nn.Conv2d, side: torch.Size, out: torch.Size) -> torch.Tensor:
    """Return which input pixel each output position reads at each tap, int64 [positions, taps].

    Pixels are numbered row by row; the padding is the number behind the last one.
    """
    lines = []
    for i in (0, 1):
        start = torch.arange(out[i])[:, None] * conv.stride[i] - int(conv.padding[i])
        lines.append(start + torch.arange(conv.kernel_size[i]) * conv.dilation[i])
    down, right = lines[0][:, None, :, None], lines[1][None, :, None, :]
    inside = (down >= 0) & (down < side[0]) & (right >= 0) & (right < side[1])
    return torch.where(inside, down * side[1] + right, prod(side)).flatten(2).flatten(0, 1)


def _draw(images: int, positions: int, generator: torch.Generator) -> torch.Tensor:
    """Return the drawn positions of each image, int64 [images, min(POSITIONS, positions)]."""
    if positions <= POSITIONS:
        return torch.arange(positions).expand(images, -1)
    return torch.rand(images, positions, generator=generator).topk(POSITIONS).indices


def _add_gram(total: torch.Tensor, x: torch.Tensor) -> None:
    """Add the upper half of xᵀx to ``total``, in place; ``x`` is fp32 [samples, columns]."""
    for start in range(0, x.shape[1], _STRIP):
        strip = x[:, start : start + _STRIP]
        total[start : start + _STRIP, start:] += strip.T @ x[:, start:]


def _mirror(total: torch.Tensor) -> None:
    """Copy the upper half of what :func:`_add_gram` summed to the lower half, in place."""
    for start in range(0, len(total), _STRIP):
        end = start + _STRIP
        total[end:, start:end] = total[start:end, end:].T


def _patch_gram(gram: torch.Tensor, map_gram: torch.Tensor, taps: torch.Tensor) -> None:
    """Add up the patches' Gram matrix from the products of all pairs of values of the map.

    Each pair of pixels is read by several positions, so this takes fewer products than the patches.
    """
    kernel = taps.shape[1]
    channels = len(gram) // kernel
    pixel_count = len(map_gram) // channels
    by_tap = gram.view(kernel, channels, kernel, channels)
    by_pixel = map_gram.view(pixel_count, channels, pixel_count, channels)
    for pixels in taps:
        inside = (pixels < pixel_count).nonzero()[:, 0]
        for tap in inside:
            by_tap[tap][:, inside] += by_pixel[pixels[tap]][:, pixels[inside]]
