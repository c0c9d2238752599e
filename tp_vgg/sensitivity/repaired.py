"""Repaired levels are networks that are pruned at one layer and repaired behind it.

Each level needs a chain of its own, because the repair changes what follows the pruned layer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tp_vgg.data.split import Normalisation, Split
from tp_vgg.evaluation.evaluate import EVALUATION_BLOCK
from tp_vgg.network.families import as_vgg
from tp_vgg.network.network import Network
from tp_vgg.network.vgg.cut import around
from tp_vgg.pruning.calibration import renew_statistics
from tp_vgg.pruning.repairs import Repair
from tp_vgg.pruning.structured import keep_channels
from tp_vgg.sensitivity.chain import (
    Chain,
    fused_layers_from,
    fused_layers_of,
    with_channels_in_order,
)


@dataclass(frozen=True)
class SweepRepair:
    """A sweep repair prunes one layer of a dense network and repairs what follows, for each level.

    The repair is ``recalibrate``: batch norm's statistics are renewed on the sample.
    """

    model: Network
    repair: Repair
    sample: Split
    """Training images on which the statistics are taken."""
    side: int
    """Side of the images in pixels."""

    def narrowed(self, name: str, order: torch.Tensor, counts: Sequence[int]) -> list[Chain]:
        """Return, for each of ``counts``, the chain of the layers behind the layer ``name``.

        A count keeps the first channels of ``order``, int64 ``[channels]``. The chain reads the
        kept channels in that order.
        """
        before, _ = around(as_vgg(self.model), name, inclusive=False)
        inputs = self._activations(before)
        chains = []
        for count in counts:
            kept = order[:count].sort().values
            pruned = copy.deepcopy(self.model)
            keep_channels(pruned, {name: kept.tolist()})
            _, behind = around(as_vgg(pruned), name, inclusive=False)
            self._repair(behind, [x[:, kept.to(x.device)] for x in inputs])
            layers = with_channels_in_order(
                fused_layers_of(pruned, self.side), {name: order[:count].argsort().argsort()}
            )
            chains.append(Chain.of(fused_layers_from(layers, name, inclusive=False)))
        return chains

    def masked(self, name: str, masks: Sequence[torch.Tensor]) -> list[Chain]:
        """Return, for each mask of its weight, the chain from the layer ``name`` on.

        Each of ``masks`` is bool, in the shape of the layer's original weight.
        """
        before, _ = around(as_vgg(self.model), name, inclusive=True)
        inputs = self._activations(before)
        chains = []
        for mask in masks:
            pruned = copy.deepcopy(self.model)
            pruned.get_submodule(name).get_parameter("weight").data.mul_(mask)
            _, behind = around(as_vgg(pruned), name, inclusive=True)
            self._repair(behind, inputs)
            chains.append(
                Chain.of(
                    fused_layers_from(fused_layers_of(pruned, self.side), name, inclusive=True)
                )
            )
        return chains

    def _repair(self, behind: nn.Module, inputs: Sequence[torch.Tensor]) -> None:
        """Repair in place the network after the pruned layer; ``inputs`` are its input batches."""
        assert self.repair == "recalibrate"
        renew_statistics(behind, inputs)

    def _activations(self, before: nn.Module) -> list[torch.Tensor]:
        normalisation = Normalisation.of(self.model.meta)
        with torch.no_grad():
            return [
                before(normalisation(images)) for images, _ in self.sample.blocks(EVALUATION_BLOCK)
            ]


@dataclass(frozen=True)
class RepairedLevels:
    """Repaired levels compute logits with a chain of its own for each level.

    They are a :class:`~tp_vgg.sensitivity.levels.LayerLevels`.
    """

    chains: Sequence[Chain]
    """The chain of each level."""
    counts: Sequence[int] | None
    """Input channels that each level reads, the first ones; ``None``: all channels."""

    def logits(self, x: torch.Tensor, chosen: Sequence[int]) -> Iterator[torch.Tensor]:
        """Yield the logits ``[n, classes]`` of the activations ``x`` at each chosen level."""
        for i in chosen:
            yield self.chains[i].logits(
                x if self.counts is None else x[..., : self.counts[i]].contiguous()
            )
