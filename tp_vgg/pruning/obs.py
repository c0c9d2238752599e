"""Channels are ranked here by what their removal costs after the next layer is refitted.

That is optimal brain surgeon (OBS), by blocks: the block of a channel is all that the next layer
reads of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import nan

import torch
from torch import nn

from tp_vgg.errors import BadInput
from tp_vgg.machine.console import progress_bar
from tp_vgg.machine.precision import autocast, exact_fp32
from tp_vgg.network.mode import modes_kept
from tp_vgg.network.network import Network
from tp_vgg.pruning.dense_refits import DenseWalk
from tp_vgg.pruning.normal_equations import ConvSums, InputSums, as_matrix, linear_inputs
from tp_vgg.pruning.paired_walk import Activations
from tp_vgg.pruning.refit import WIDEST_GRAM, by_column, gram_system, one_of_equal
from tp_vgg.pruning.repair_sample import RepairSample

_AT_ONCE = 64
"""One in so many of the channels that are left is removed at a time, but at least one."""
_COMPACT = 0.9
"""The matrices are made smaller when less than this part of their channels is left."""


def channel_scores(
    model: Network,
    layers: Iterable[str],
    images: torch.Tensor,
    seed: int = 0,
    *,
    quiet: bool = True,
) -> dict[str, torch.Tensor]:
    """Return how late each channel of each of ``layers`` is removed; higher is kept.

    Channels are removed one after the other: that one next whose removal changes the outputs of the
    next layer least, if that layer's weights for the channels which are left are refitted as by
    :func:`tp_vgg.repair`. With X the inputs of the next layer in ``model``, H = XᵀX + λI, W₀ its
    weights and W what they are refitted to so far, the removal of channel g costs
    tr(W_g ((H⁻¹)_gg)⁻¹ W_gᵀ) − λ ‖W₀_g‖²; W and H⁻¹ without g follow in closed form. The second
    term is there because the repair pulls only the weights that are left to W₀. Of more than 64
    channels that are left, 1 in 64 are removed at once.

    ``images``: normalised fp32 [N, 3, S, S]; each is used as it is, and nine in ten shifted once,
    by ``seed``. Returns floats [channels] on the CPU, by layer name: the order itself, which is one
    for all numbers of channels. The model is not changed. ``quiet``: no progress bar. If the next
    layer is linear and reads more than 8,192 inputs, several of each channel, a channel's mean
    stands for them. Raises :class:`BadInput` if the layer reads so many channels.

    Sources: Hassibi & Stork 1993 (optimal brain surgeon); Frantar & Alistarh 2022 (Optimal Brain
    Compression: by blocks, layer by layer).
    """
    names = [row.name for row in model.spec.rows]
    reads = {row.name: row.reads for row in model.spec.rows}
    chosen, scores = set(layers), {}
    wanted = [name for name in names if name in chosen]
    with (
        modes_kept(model),
        torch.no_grad(),
        exact_fp32(),
        autocast(images.device, torch.float32),
    ):
        model.eval()
        walk = DenseWalk(model, RepairSample.of(images, zeroed=False, flip=False, seed=seed))
        for name in progress_bar("obs", wanted, unit="layer", leave=False, quiet=quiet):
            behind = names[names.index(name) + 1]
            segment, inputs = walk.inputs_of(behind)
            hessian, weight, ridge = _system(segment.layer, inputs, reads[behind], seed)
            order = removal_order(hessian, weight, ridge, model.spec.prunable[name])
            finite = bool(hessian.isfinite().all() and weight.isfinite().all())
            scores[name] = order.argsort().float().cpu() if finite else torch.full(order.shape, nan)
    return scores


def _system(
    layer: nn.Conv2d | nn.Linear, inputs: Activations, reads: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return H, fp64 [columns, columns], W₀, fp64 [rows, columns], and λ; columns go tap by tap."""
    weight = layer.weight.detach()
    if isinstance(layer, nn.Conv2d):
        patches = ConvSums(layer, torch.Generator().manual_seed(seed))
        for block in inputs:
            patches.add(block)
        hessian, ridge = _ridged(patches.inputs())
        return hessian, as_matrix(weight).double(), ridge
    read, equal = one_of_equal(torch.cat(list(inputs)), reads)
    matrix, reads = by_column(weight, equal).double(), reads // equal
    if read.shape[1] > WIDEST_GRAM:
        if read.shape[1] // reads > WIDEST_GRAM:
            raise BadInput(
                f"importance obs: takes at most {WIDEST_GRAM:,} channels a layer, and there are "
                f"{read.shape[1] // reads:,}; use l1"
            )
        read = read.unflatten(1, (-1, reads)).mean(2)
        matrix, reads = matrix.unflatten(1, (-1, reads)).sum(2), 1
    by_tap = torch.arange(read.shape[1], device=read.device).view(-1, reads).T.flatten()
    hessian, ridge = _ridged(linear_inputs(read, bias=layer.bias is not None))
    return hessian[by_tap[:, None], by_tap], matrix[:, by_tap], ridge


def _ridged(inputs: InputSums) -> tuple[torch.Tensor, float]:
    hessian, ridge = inputs.gram, gram_system(inputs).ridge
    hessian.diagonal().add_(ridge)
    return hessian, ridge


def removal_order(
    hessian: torch.Tensor, weight: torch.Tensor, ridge: float, channels: int
) -> torch.Tensor:
    """Return the channels in the order of :func:`channel_scores`, int64 [channels].

    ``hessian``: H, fp64 [taps · channels, taps · channels], positive definite, with ``ridge`` (λ)
    on its diagonal. ``weight``: W₀, fp64 [rows, taps · channels]. Columns go tap by tap. Of equal
    costs, the higher channel goes first.
    """
    taps = torch.arange(len(hessian) // channels, device=hessian.device)
    left = torch.arange(channels, device=hessian.device)  # the channels of the matrices' columns
    alive = torch.ones(channels, dtype=torch.bool, device=hessian.device)
    inverse, weight = torch.cholesky_inverse(torch.linalg.cholesky_ex(hessian).L), weight.clone()
    pull = ridge * weight.square().sum(0).view(len(taps), channels).sum(0)
    order: list[torch.Tensor] = []
    while alive.any():
        width = len(left)
        places = alive.nonzero()[:, 0]
        columns = taps * width + places[:, None]
        cost = _costs(inverse, weight, columns) - pull[left[places]]
        count = max(1, len(places) // _AT_ONCE)
        cheapest = cost.flip(0).argsort(stable=True)[:count]
        gone = len(places) - 1 - cheapest
        order.append(left[places[gone]])
        alive[places[gone]] = False
        removed = columns[gone].flatten()
        _remove(inverse, weight, removed)
        if alive.sum() < _COMPACT * width:
            keep = alive.nonzero()[:, 0]
            kept = (taps[:, None] * width + keep).flatten()
            inverse, weight, left = inverse[kept[:, None], kept], weight[:, kept], left[keep]
            alive = torch.ones_like(keep, dtype=torch.bool)
    return torch.cat(order)


def _costs(inverse: torch.Tensor, weight: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Return what the removal of each row of ``columns``, [channels, taps], costs, [channels]."""
    blocks = inverse[columns[:, :, None], columns[:, None, :]]
    read = weight[:, columns].permute(1, 0, 2)
    squares = read.transpose(1, 2) @ read
    found: torch.Tensor = torch.linalg.solve_ex(blocks, squares)[0]
    return found.diagonal(dim1=1, dim2=2).sum(1)


def _remove(inverse: torch.Tensor, weight: torch.Tensor, columns: torch.Tensor) -> None:
    """Remove ``columns`` from the refitted weights and from H⁻¹, in place; they become 0."""
    step = torch.linalg.solve_ex(inverse[columns[:, None], columns], inverse[columns])[0]
    weight.addmm_(weight[:, columns], step, alpha=-1)
    inverse.addmm_(inverse[:, columns], step, alpha=-1)
    for matrix in (inverse, weight):
        matrix[:, columns] = 0
    inverse[columns] = 0
