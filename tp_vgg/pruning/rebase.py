"""Weights and batch norm change together here, so that the network computes the same function."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from tp_vgg.network.families import segments
from tp_vgg.network.masks import refresh_masked_weights
from tp_vgg.network.network import Network


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


@torch.no_grad()
def row_norms(model: Network) -> dict[str, torch.Tensor]:
    """Return the L2 norm of each output's weights, fp64 [rows], of each layer with batch norm."""
    return {
        part.name: part.layer.weight.detach().double().flatten(1).norm(dim=1)
        for part in segments(model)
        if part.norm is not None
    }


@torch.no_grad()
def restore_row_norms(model: Network, norms: Mapping[str, torch.Tensor]) -> None:
    """Give each output's weights their former norm, in place; batch norm makes up for it.

    ``norms``: what :func:`row_norms` returned. In eval mode ``model`` computes the same function,
    to rounding, but it trains otherwise: a gradient step turns weights w behind batch norm by an
    angle that goes with rate ÷ ‖w‖², so that refitted weights, which are larger, hardly move at the
    rate that suited them before. A row stays as it is if either norm is 0.

    Source: van Laarhoven 2017 (L2 regularization versus batch and weight normalization).
    """
    present = row_norms(model)
    for part in segments(model):
        norm = part.norm
        if norm is None or norm.running_mean is None or norm.running_var is None:
            continue
        factor = norms[part.name] / present[part.name]
        factor = torch.where((factor > 0) & factor.isfinite(), factor, torch.ones_like(factor))
        former = norm.running_var.double()
        variance = former * factor.square()
        scale = ((variance + norm.eps) / (former + norm.eps)).sqrt() / factor
        weight = part.layer._parameters.get("weight_orig", part.layer._parameters.get("weight"))
        assert weight is not None
        weight.mul_(factor.view(-1, *[1] * (weight.ndim - 1)))
        if part.layer.bias is not None:
            part.layer.bias.mul_(factor)
        norm.running_mean.mul_(factor)
        norm.running_var.copy_(variance)
        norm.weight.mul_(scale)
    refresh_masked_weights(model)
