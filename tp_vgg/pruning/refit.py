"""One layer's weights are refitted here so that its outputs come close to those of a dense network.

The penalty pulls the weights to those that the layer has; weights that are exactly 0 stay 0.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn

from tp_vgg.network.masks import refresh_masked_weights
from tp_vgg.pruning.least_squares import solve_gram, solve_samples
from tp_vgg.pruning.normal_equations import (
    NormalEquations,
    as_matrix,
    as_weight,
    conv_equations,
    linear_equations,
)
from tp_vgg.pruning.rebase import ChannelStatistics

RIDGE = 0.1
"""Strength λ of the pull to the present weights, as a part of the inputs' mean square."""
_LEAST_SQUARE = 1e-30
"""Mean square of inputs that count as zeros: below it, squares lose their digits in fp32."""
_WIDEST_GRAM = 8192
"""Most columns of a linear layer whose Gram matrix is held; it takes 0.5 GB in fp64."""


@dataclass(frozen=True)
class Correction:
    """A correction is what is added to a layer's weight and bias."""

    weight: torch.Tensor
    """In the shape of the weight."""
    bias: torch.Tensor | None

    def add_to(self, layer: nn.Module) -> None:
        """Add it to the weight and bias of ``layer``, in place.

        Where a mask of ``torch.nn.utils.prune`` lies on the weight, it is 0.
        """
        parameters = layer._parameters
        for name, value in (("weight", self.weight), ("bias", self.bias)):
            parameter = parameters.get(f"{name}_orig", parameters.get(name))
            if parameter is not None and value is not None:
                parameter.data.add_(value)


def correction(
    layer: nn.Conv2d | nn.Linear,
    blocks: Iterable[tuple[torch.Tensor, torch.Tensor]],
    generator: torch.Generator,
    reads: int = 1,
) -> Correction:
    """Return the correction δ of the layer's weight that minimises ``‖X δ − r‖² + λ ‖δ‖²``.

    ``blocks``: pairs of the layer's inputs X and the wanted outputs; r is the wanted outputs less
    those that the layer gives. For a conv they are maps [n, channels, H, W], for a linear layer
    [n, features]. Weights that are exactly 0 get no correction. λ is :data:`RIDGE` times the mean
    of the diagonal of XᵀX. The bias is free: X and r are centred. ``generator``, on the CPU, draws
    positions of the maps. ``reads``: that many neighbouring inputs of a linear layer belong to one
    channel.

    Sums of fp32 products are solved in fp64. A linear layer with fewer samples than inputs is
    solved in the dual form, unless it has zeros and at most 8,192 inputs. With zeros and more
    inputs, conjugate gradients multiply by X itself, in fp32.
    """
    if isinstance(layer, nn.Conv2d):
        return conv_correction(layer, conv_equations(layer, blocks, generator))
    inputs, wanted = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    return linear_correction(layer, inputs, wanted, reads)


def conv_correction(conv: nn.Conv2d, equations: NormalEquations) -> Correction:
    """Return the :func:`correction` of ``conv``, whose normal equations are given."""
    copies = _copies(as_matrix(conv.weight.detach()), 1)
    ridge = _ridge(equations.mean_square)
    delta = solve_gram(equations.gram, equations.cross, copies, ridge)
    bias = None
    if conv.bias is not None:
        bias = (equations.lacking_mean - delta @ equations.input_mean).float()
    return Correction(as_weight(delta.float(), conv.weight.shape), bias)


def linear_correction(
    linear: nn.Linear, inputs: torch.Tensor, wanted: torch.Tensor, reads: int = 1
) -> Correction:
    """Return the :func:`correction` of ``linear`` for inputs [n, features] and wanted outputs."""
    lacking = wanted - linear(inputs)
    if reads > 1:
        by_channel = inputs.unflatten(1, (-1, reads))
        if bool((by_channel == by_channel[:, :, :1]).all()):
            inputs = by_channel[:, :, 0].contiguous()
        else:
            reads = 1
    copies = _copies(linear.weight.detach(), reads)
    delta, input_mean, lacking_mean = _solve_linear(
        inputs, lacking, copies, bias=linear.bias is not None
    )
    bias = None if linear.bias is None else (lacking_mean - delta @ input_mean).float()
    weight = (delta / copies.clamp(min=1)).float()
    if reads > 1:
        nonzero = linear.weight.detach() != 0
        weight = weight.repeat_interleave(reads, 1).mul_(nonzero)
    return Correction(weight, bias)


def refit(
    layer: nn.Module, correction: Correction, held_out: Callable[[], float]
) -> tuple[float, float]:
    """Correct ``layer`` in place unless that makes it no better; return its error before and after.

    ``held_out`` returns the error that the layer has on images to which it was not fitted. If the
    second is not below the first, or not finite, the layer is as it was.
    """
    before = held_out()
    former = copy.deepcopy(layer.state_dict())
    is_better = False
    try:
        correction.add_to(layer)
        after = held_out()
        is_better = after < before  # NaN is not
    finally:  # Ctrl-C comes here too
        if not is_better:
            layer.load_state_dict(former)
            refresh_masked_weights(layer)
    return before, after


def relative_error(layer: nn.Module, pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Return the error of the layer's outputs over pairs of inputs and wanted outputs.

    It is the root of the squared error divided by that of the wanted outputs about their means.
    """
    missed = size = 0.0
    spread = ChannelStatistics()
    for inputs, wanted in pairs:
        # In fp64, since the square of what fp32 holds may be more than fp32 holds.
        missed += float((layer(inputs) - wanted).double().square().sum())
        size += float(wanted.double().square().sum())
        spread.add(wanted)
    # A single held-out image has no spread in a linear layer.
    return math.sqrt(missed / (float(spread.squares.sum()) or size or 1.0))


def _copies(weight: torch.Tensor, reads: int) -> torch.Tensor:
    """Return how many weights of each row are not 0, among ``reads`` (≤ 255) neighbours; uint8."""
    nonzero = (weight != 0).to(torch.uint8)
    return nonzero.unflatten(1, (-1, reads)).sum(2, dtype=torch.uint8) if reads > 1 else nonzero


def _ridge(mean_square: float) -> float:
    return RIDGE * mean_square if mean_square > _LEAST_SQUARE else 1.0


def _solve_linear(
    inputs: torch.Tensor, lacking: torch.Tensor, copies: torch.Tensor, *, bias: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return δ [rows, columns], and the means of the inputs and of what is lacking."""
    samples, columns = inputs.shape
    all_read = bool((copies == copies.amax()).all())
    if samples >= columns or (not all_read and columns <= _WIDEST_GRAM):
        equations = linear_equations(inputs, lacking, bias=bias)
        ridge = _ridge(equations.mean_square)
        delta = solve_gram(equations.gram, equations.cross, copies, ridge)
        return delta, equations.input_mean, equations.lacking_mean
    input_mean, lacking_mean = (
        x.mean(0) if bias else x.new_zeros(x.shape[1]) for x in (inputs, lacking)
    )
    ridge = _ridge(float(inputs.square().sum(dtype=torch.float64)) / columns)
    inputs, lacking = inputs - input_mean, lacking - lacking_mean
    delta = solve_samples(inputs, lacking, copies, ridge)
    return delta, input_mean, lacking_mean
