"""Levels of a sweep are repaired here as :func:`tp_vgg.repair` does it, one layer at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from tp_vgg.evaluation.images import Unlabelled
from tp_vgg.machine.precision import autocast
from tp_vgg.network.mode import modes_kept
from tp_vgg.network.network import Network, Segment
from tp_vgg.network.vgg.fold import fold_head_columns
from tp_vgg.pruning.dense_refits import DenseRefits, DenseWalk
from tp_vgg.pruning.repair import is_sparse
from tp_vgg.pruning.repair_sample import RepairSample, repair_sample
from tp_vgg.pruning.repairs import REPAIR_IMAGES
from tp_vgg.sensitivity.fused_layer import FusedLayer


@dataclass(frozen=True)
class RepairImages:
    """Repair images are what a sweep needs to refit weights at its points."""

    images: torch.Tensor
    """Normalised training images, fp32 [N, 3, S, S]."""
    flip: bool
    """Whether half of their shifted copies are mirrored."""

    @classmethod
    def of(
        cls, name: str, images: Unlabelled, model: Network, seed: int, *, flip: bool
    ) -> RepairImages:
        """Return the sample that :func:`tp_vgg.repair` draws by default from a caller's images.

        ``name``: of the argument. Raises :class:`BadInput` for images that do not fit.
        """
        return cls(repair_sample(name, images, model, REPAIR_IMAGES, seed), flip)


class Reconstruction:
    """A reconstruction refits the layer that a pruning changes first, at each level of a sweep.

    That is the zeroed layer itself, or the layer that reads removed channels. The refits of the
    layer that was asked for last are kept.
    """

    def __init__(
        self, model: Network, images: RepairImages, seed: int, orders: Mapping[str, torch.Tensor]
    ) -> None:
        """``orders``: the channels of each layer by falling importance; empty: zeros are swept."""
        self._model, self._seed, self._orders = model, seed, orders
        zeroed = not orders or is_sparse(model)
        self._sample = RepairSample.of(images.images, zeroed=zeroed, flip=images.flip, seed=seed)
        self._walk = DenseWalk(model, self._sample)
        self._reads = {row.name: row.reads for row in model.spec.rows}
        self._last: tuple[str, list[FusedLayer]] = "", []

    def narrowed(
        self, fused: FusedLayer, order: torch.Tensor, counts: Sequence[int]
    ) -> list[FusedLayer]:
        """Return the layer ``fused`` refitted for each of ``counts``, of channels that it reads.

        They are the first ones of ``order``, int64 [channels], and come in that order.
        """

        def refitted(part: Segment, refits: DenseRefits) -> list[FusedLayer]:
            of_count: dict[int, FusedLayer] = {len(order): fused}
            for count in counts:
                if count not in of_count:
                    of_count[count] = self._fused(fused, part, refits.narrowed(order[:count]))
            return [of_count[count] for count in counts]

        return self._refitted(fused.name, refitted)

    def masked(self, fused: FusedLayer, masks: Sequence[torch.Tensor]) -> list[FusedLayer]:
        """Return the layer ``fused`` refitted for each of ``masks``, bool in its weight's shape."""
        return self._refitted(
            fused.name,
            lambda part, refits: [
                fused if bool(mask.all()) else self._fused(fused, part, refits.masked(mask))
                for mask in masks
            ],
        )

    def _refitted(
        self, name: str, levels: Callable[[Segment, DenseRefits], list[FusedLayer]]
    ) -> list[FusedLayer]:
        """Return ``levels`` of the layer ``name``, or those of the call before if it was the same.

        The network is in eval mode meanwhile.
        """
        if self._last[0] != name:
            self._last = "", []
            device = self._sample.blocks[0].device
            with (
                modes_kept(self._model),
                torch.inference_mode(False),
                torch.no_grad(),
                autocast(device, torch.float32),
            ):
                self._model.eval()
                part, inputs = self._walk.inputs_of(name)
                reads = self._reads[name]
                refits = DenseRefits(part.layer, reads, inputs, self._sample, self._seed)
                self._last = name, levels(part, refits)
        return self._last[1]

    def _fused(self, fused: FusedLayer, part: Segment, layer: nn.Conv2d | nn.Linear) -> FusedLayer:
        """Return ``fused`` with the weights of ``layer``, which stands in the place of ``part``."""
        weight, bias = layer.weight, layer.bias
        assert bias is not None
        if part.norm is not None:
            norm = part.norm
            assert norm.running_mean is not None and norm.running_var is not None
            weight, bias = fuse_conv_bn_weights(
                weight, bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
        if self._reads[fused.name] > max(fused.head_pool, 1) ** 2:
            weight = fold_head_columns(weight)
        order = self._orders.get(fused.name)
        if order is not None:
            weight, bias = weight[order], bias[order]
        return replace(fused, weight=weight.detach(), bias=bias.detach())
