"""Weights and batch norm change together here, so that the network computes the same function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from tp_vgg.network.masks import parameter_behind, refresh_masked_weights

_FARTHEST = 1000.0
"""Factor between two norms of a row, or slopes of a channel, above which one is taken for noise."""


class ChannelStatistics:
    """These are mean and variance of each channel, over blocks of activations.

    Blocks are combined as by Chan, Golub & LeVeque 1979, in fp64.
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean: torch.Tensor | None = None
        self._squares: torch.Tensor | None = None

    def add(self, block: torch.Tensor) -> None:
        """Count a block of floats [n, channels] or [n, channels, H, W]."""
        by_channel = block.transpose(0, 1).flatten(1)
        count = by_channel.shape[1]
        variance, mean = torch.var_mean(by_channel, 1, correction=0)
        mean, squares = mean.double(), variance.double() * count
        if self._mean is not None and self._squares is not None:
            total = self._count + count
            apart = mean - self._mean
            squares = self._squares + squares + apart.square() * (self._count * count / total)
            mean = self._mean + apart * (count / total)
        self._mean, self._squares = mean, squares
        self._count += count

    @property
    def mean(self) -> torch.Tensor:
        """Return the mean of each channel, fp64 [channels]."""
        assert self._mean is not None
        return self._mean

    @property
    def variance(self) -> torch.Tensor:
        """Return the unbiased variance of each channel, fp64 [channels]."""
        return self.squares / max(1, self._count - 1)

    @property
    def squares(self) -> torch.Tensor:
        """Return the sum of squares about the mean of each channel, fp64 [channels]."""
        assert self._squares is not None
        return self._squares


def rebase(norm: nn.BatchNorm2d, statistics: ChannelStatistics) -> None:
    """Give ``norm`` other running statistics, in place; its outputs in eval mode stay the same.

    With the new mean μ' and variance σ'², γ' = γ·√(σ'²+ε) ÷ √(σ²+ε) and
    β' = β + γ·(μ'−μ) ÷ √(σ²+ε) undo what they change, to rounding. Training and recalibration,
    which take the statistics of their own batches, then start from the same function too. It stays
    as it is if these are not finite in fp32.
    """
    assert norm.running_mean is not None and norm.running_var is not None
    mean, variance = statistics.mean, statistics.variance
    old_scale = (norm.running_var.double() + norm.eps).sqrt()
    gamma, beta = norm.weight.detach().double(), norm.bias.detach().double()
    renewed = {
        norm.bias: beta + gamma * (mean - norm.running_mean.double()) / old_scale,
        norm.weight: gamma * (variance + norm.eps).sqrt() / old_scale,
        norm.running_mean: mean,
        norm.running_var: variance,
    }
    _replace(renewed)


@torch.no_grad()
def row_norms(layer: nn.Conv2d | nn.Linear) -> torch.Tensor:
    """Return the L2 norm of each output's weights, fp64 [outputs]."""
    return layer.weight.double().flatten(1).square().sum(1).sqrt()


def restore_row_norms(
    layer: nn.Conv2d | nn.Linear, norm: nn.BatchNorm2d, norms: torch.Tensor
) -> None:
    """Give each output's weights their former norm, in place; ``norm`` behind makes up for it.

    ``norms``: what :func:`row_norms` returned. In eval mode both compute the same function, to
    rounding, but they train otherwise: a gradient step turns weights w in front of batch norm by an
    angle that goes with rate ÷ ‖w‖², so that refitted weights, which are larger, hardly move at the
    rate that suited them before. An output stays as it is if either norm is 0 or they are over a
    thousand times apart; so do weights below a mask.

    Source: van Laarhoven 2017 (L2 regularization versus batch and weight normalization).
    """
    assert norm.running_mean is not None and norm.running_var is not None
    factor = norms / row_norms(layer)
    sound = (factor >= 1 / _FARTHEST) & (factor <= _FARTHEST)  # False for NaN
    factor = torch.where(sound, factor, torch.ones_like(factor))
    variance = norm.running_var.double()
    scaled = variance * factor.square()
    weight, bias = parameter_behind(layer, "weight"), parameter_behind(layer, "bias")
    assert weight is not None
    rows = weight.detach().double() * factor.view(-1, *[1] * (weight.ndim - 1))
    mask = layer._buffers.get("weight_mask")
    renewed = {
        weight: rows if mask is None else torch.where(mask == 0, weight.detach().double(), rows),
        norm.running_mean: norm.running_mean.double() * factor,
        norm.running_var: scaled,
        norm.weight: norm.weight.detach().double()
        * ((scaled + norm.eps) / (variance + norm.eps)).sqrt()
        / factor,
    }
    if bias is not None:
        renewed[bias] = bias.detach().double() * factor
    _replace(renewed)
    refresh_masked_weights(layer)


@torch.no_grad()
def matching_scale(
    norm: nn.BatchNorm2d, whole: nn.BatchNorm2d, places: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return scale and shift, fp32 [channels], of outputs that were meant for another batch norm.

    In eval mode ``norm`` gives for scale · y + shift what ``whole`` gives for y at the channels
    ``places``. They are 1 and 0 in a channel where that would take extremes, or no finite number.
    ``None`` if they are 1 and 0 in all, as after pruning; they are not after a repair or training.
    """
    slope, offset = _line(norm)
    whole_slope, whole_offset = (values[list(places)] for values in _line(whole))
    scale, shift = whole_slope / slope, (whole_offset - offset) / slope
    sound = (scale.abs() >= 1 / _FARTHEST) & (scale.abs() <= _FARTHEST) & shift.isfinite()
    scale = torch.where(sound, scale, 1.0)
    shift = torch.where(sound, shift, 0.0)
    if bool((scale == 1).all()) and not shift.any():
        return None
    return scale.float(), shift.float()


def _line(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Return slope and offset of each channel of ``norm`` in eval mode, fp64 [channels]."""
    assert norm.running_mean is not None and norm.running_var is not None
    slope = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return slope, norm.bias.double() - slope * norm.running_mean.double()


def _replace(renewed: Mapping[torch.Tensor, torch.Tensor]) -> None:
    """Give tensors their new values in place: all of them, or none if one is not finite in fp32."""
    if not all(value.float().isfinite().all() for value in renewed.values()):
        return
    former = {tensor: tensor.detach().clone() for tensor in renewed}
    try:
        for tensor, value in renewed.items():
            tensor.data.copy_(value)
    except BaseException:  # Ctrl-C: half of them would be another function
        for tensor, value in former.items():
            tensor.data.copy_(value)
        raise
