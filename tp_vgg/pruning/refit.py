"""One layer's weights are refitted here so that its outputs come close to those of a dense network.

The penalty pulls the weights to those that the layer has; weights that are exactly 0 stay 0, unless
the zeros are to move.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn

from tp_vgg.network.masks import parameter_behind, refresh_masked_weights
from tp_vgg.pruning.least_squares import GramSystem, solve_samples
from tp_vgg.pruning.normal_equations import (
    InputSums,
    as_matrix,
    as_weight,
    conv_equations,
    linear_equations,
)
from tp_vgg.pruning.rebase import ChannelStatistics
from tp_vgg.pruning.unstructured import magnitude_masks

RIDGE = 0.1
"""Strength λ of the pull to the present weights, as a part of the inputs' mean square."""
_LEAST_SQUARE = 1e-30
"""Mean square of inputs that count as zeros: below it, squares lose their digits in fp32."""
WIDEST_GRAM = 8192
"""Most columns of a linear layer whose Gram matrix is held; it takes 0.5 GB in fp64."""
_FEW = 0.1
"""Part of a linear layer's rows that may be solved by products with X itself."""


@dataclass(frozen=True)
class Correction:
    """A correction is what is added to a layer's weight and bias."""

    weight: torch.Tensor
    """In the shape of the weight."""
    bias: torch.Tensor | None
    kept: torch.Tensor | None = None
    """If the zeros move: bool, in the shape of the weight, False where it is 0 afterwards."""

    def add_to(self, layer: nn.Module) -> None:
        """Add it to the weight and bias of ``layer``, in place.

        A mask of ``torch.nn.utils.prune`` on the weight becomes that of the zeros, if they move.
        Otherwise the correction is 0 where the mask is.
        """
        mask = layer._buffers.get("weight_mask")
        if self.kept is not None and mask is not None:
            layer.get_parameter("weight_orig").data.mul_(mask)
            mask.copy_(self.kept)
        for name, value in (("weight", self.weight), ("bias", self.bias)):
            parameter = parameter_behind(layer, name)
            if parameter is not None and value is not None:
                parameter.data.add_(value)


def correction(
    layer: nn.Conv2d | nn.Linear,
    blocks: Iterable[tuple[torch.Tensor, torch.Tensor]],
    generator: torch.Generator,
    reads: int = 1,
    dense: torch.Tensor | None = None,
) -> Correction:
    """Return the correction δ of the layer's weight that minimises ``‖X δ − r‖² + λ ‖δ‖²``.

    ``blocks``: pairs of the layer's inputs X and the wanted outputs; r is the wanted outputs less
    those that the layer gives. For a conv they are maps [n, channels, H, W], for a linear layer
    [n, features]. Weights that are exactly 0 get no correction. λ is :data:`RIDGE` times the mean
    of the diagonal of XᵀX. The bias is free: X and r are centred. ``generator``, on the CPU, draws
    positions of the maps. ``reads``: that many neighbouring inputs of a linear layer belong to one
    channel.

    ``dense``: the weight before some of it was set to zero, in the same shape; if it is given, the
    zeros move (:func:`_with_moved_zeros`).

    Sums of fp32 products are solved in fp64. A linear layer with fewer samples than inputs is
    solved in the dual form, unless many of its rows have zeros and it has at most 8,192 inputs.
    Rows with zeros are otherwise solved by conjugate gradients that multiply by X itself, in fp32.
    """
    weight = layer.weight.detach()
    if isinstance(layer, nn.Conv2d):
        refitted = _conv_solver(layer, weight, blocks, generator)
    else:
        refitted = _linear_solver(layer, weight, blocks, reads)
    return refitted(weight) if dense is None else _with_moved_zeros(weight, dense, refitted)


Refitted = Callable[[torch.Tensor], Correction]
"""Function that returns the correction of a layer which has this weight instead of its own."""


def _with_moved_zeros(weight: torch.Tensor, dense: torch.Tensor, refitted: Refitted) -> Correction:
    """Return the correction of ``weight`` after its zeros moved; their number stays.

    The weights ``dense`` are refitted as a whole. Those that are smallest then become the zeros,
    and the others are refitted from their dense values. A zero of ``dense`` stays.
    """
    whole = dense + refitted(dense).weight
    (kept,) = magnitude_masks(whole.abs(), [int((weight == 0).sum())])
    masked = dense * kept
    found = refitted(masked)
    return Correction(masked + found.weight - weight, found.bias, kept)


def _conv_solver(
    conv: nn.Conv2d,
    own: torch.Tensor,
    blocks: Iterable[tuple[torch.Tensor, torch.Tensor]],
    generator: torch.Generator,
) -> Refitted:
    equations = conv_equations(conv, blocks, generator)
    system, bias = gram_system(equations.inputs), conv.bias is not None

    def refitted(weight: torch.Tensor) -> Correction:
        now = equations
        if weight is not own:
            now = equations.after(as_matrix(weight - own).double())
        copies = copies_of(weight, 1)
        delta = system.solve(now.cross, copies)
        return as_correction(weight, delta, copies, 1, now.inputs.mean, now.lacking_mean, bias=bias)

    return refitted


def _linear_solver(
    linear: nn.Linear,
    own: torch.Tensor,
    blocks: Iterable[tuple[torch.Tensor, torch.Tensor]],
    reads: int,
) -> Refitted:
    inputs, wanted = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    lacking, bias = wanted - linear(inputs), linear.bias is not None
    inputs, reads = one_of_equal(inputs, reads)

    def refitted(weight: torch.Tensor) -> Correction:
        now = lacking
        if weight is not own:
            now = lacking - inputs @ by_column(weight - own, reads).T
        return linear_correction(weight, inputs, now, copies_of(weight, reads), reads, bias=bias)

    return refitted


def linear_correction(
    weight: torch.Tensor,
    inputs: torch.Tensor,
    lacking: torch.Tensor,
    copies: torch.Tensor,
    reads: int,
    *,
    bias: bool,
) -> Correction:
    """Return the :func:`correction` of a linear layer for inputs [n, columns] and r, [n, rows].

    ``reads``: each column stands for so many neighbouring inputs (:func:`one_of_equal`).
    ``copies``: what :func:`copies_of` returns for ``weight``. ``bias``: the layer has one.
    """
    if takes_gram(len(inputs), copies):
        equations = linear_equations(inputs, lacking, bias=bias)
        delta = gram_system(equations.inputs).solve(equations.cross, copies)
        input_mean, lacking_mean = equations.inputs.mean, equations.lacking_mean
    else:
        input_mean, lacking_mean = (
            x.mean(0) if bias else x.new_zeros(x.shape[1]) for x in (inputs, lacking)
        )
        ridge = _ridge(float(inputs.square().sum(dtype=torch.float64)) / inputs.shape[1])
        delta = solve_samples(inputs - input_mean, lacking - lacking_mean, copies, ridge)
    return as_correction(weight, delta, copies, reads, input_mean, lacking_mean, bias=bias)


def gram_system(inputs: InputSums) -> GramSystem:
    """Return the system of these sums, with the ridge that belongs to them."""
    return GramSystem(inputs.gram, _ridge(float(inputs.squares.mean())))


def takes_gram(samples: int, copies: torch.Tensor) -> bool:
    """Return True if a linear layer is solved from its Gram matrix, not from the inputs.

    ``copies``: what :func:`copies_of` returns.
    """
    columns = copies.shape[1]
    partly = (copies != copies.amax()).any(1).double().mean()
    return samples >= columns or (float(partly) > _FEW and columns <= WIDEST_GRAM)


def one_of_equal(inputs: torch.Tensor, reads: int) -> tuple[torch.Tensor, int]:
    """Return one of each ``reads`` neighbouring inputs if they are equal, and how many it is.

    ``inputs``: [n, features]. If some differ, they are returned as they are, with 1.
    """
    if reads > 1:
        by_channel = inputs.unflatten(1, (-1, reads))
        if bool((by_channel == by_channel[:, :, :1]).all()):
            return by_channel[:, :, 0].contiguous(), reads
    return inputs, 1


def by_column(weight: torch.Tensor, reads: int) -> torch.Tensor:
    """Return a weight as [rows, columns], where a column stands for ``reads`` neighbouring inputs.

    See :func:`one_of_equal`.
    """
    matrix = as_matrix(weight)
    return matrix.unflatten(1, (-1, reads)).sum(2) if reads > 1 else matrix


def neighbours(channels: torch.Tensor, reads: int) -> torch.Tensor:
    """Return the numbers of the ``reads`` neighbouring inputs of each channel."""
    elements = torch.arange(reads, device=channels.device)
    return (channels[:, None] * reads + elements).flatten()


def copies_of(weight: torch.Tensor, reads: int) -> torch.Tensor:
    """Return how many weights of each row are not 0, among ``reads`` (≤ 255) neighbours; uint8."""
    nonzero = (as_matrix(weight) != 0).to(torch.uint8)
    return nonzero.unflatten(1, (-1, reads)).sum(2, dtype=torch.uint8) if reads > 1 else nonzero


def as_correction(
    weight: torch.Tensor,
    delta: torch.Tensor,
    copies: torch.Tensor,
    reads: int,
    input_mean: torch.Tensor,
    lacking_mean: torch.Tensor,
    *,
    bias: bool,
) -> Correction:
    """Return δ [rows, columns] as a correction of a layer with this ``weight``.

    ``copies``: what :func:`copies_of` returns; ``input_mean`` [columns] and ``lacking_mean``
    [rows]: means of X and r. ``bias``: the layer has one.
    """
    of_bias = (lacking_mean - delta @ input_mean).float() if bias else None
    if reads == 1:
        return Correction(as_weight(delta.float(), weight.shape), of_bias)
    spread = (delta / copies.clamp(min=1)).float().repeat_interleave(reads, 1)
    return Correction(spread.mul_(weight != 0), of_bias)


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


def _ridge(mean_square: float) -> float:
    return RIDGE * mean_square if mean_square > _LEAST_SQUARE else 1.0
