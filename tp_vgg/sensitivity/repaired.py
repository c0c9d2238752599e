"""Networks with one layer pruned and batch norm's statistics taken anew behind it, as chains for a sweep."""

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
from tp_vgg.pruning.repair import Repair
from tp_vgg.pruning.structured import keep_channels
from tp_vgg.sensitivity.chain import (
    Chain,
    fused_layers_from,
    fused_layers_of,
    with_channels_in_order,
)


@dataclass(frozen=True)
class SweepRepair:
    """The dense network and the images whose statistics count."""

    model: Network
    repair: Repair
    sample: Split
    side: int

    def narrowed(self, name: str, order: torch.Tensor, counts: Sequence[int]) -> list[Chain]:
        """The steps behind layer ``name``, for each count of its channels (the first of ``order``), which they expect in that order."""
        before, _ = around(as_vgg(self.model), name, own=False)
        inputs = self._activations(before)
        chains = []
        for count in counts:
            kept = order[:count].sort().values
            pruned = copy.deepcopy(self.model)
            keep_channels(pruned, {name: kept.tolist()})
            _, behind = around(as_vgg(pruned), name, own=False)
            self._repair(behind, [x[:, kept.to(x.device)] for x in inputs])
            steps = with_channels_in_order(
                fused_layers_of(pruned, self.side), {name: order[:count].argsort().argsort()}
            )
            chains.append(Chain.of(fused_layers_from(steps, name, own=False)))
        return chains

    def masked(self, name: str, masks: Sequence[torch.Tensor]) -> list[Chain]:
        """The steps from layer ``name`` on, for each mask of its weight."""
        before, _ = around(as_vgg(self.model), name, own=True)
        inputs = self._activations(before)
        chains = []
        for mask in masks:
            pruned = copy.deepcopy(self.model)
            pruned.get_submodule(name).get_parameter("weight").data.mul_(mask)
            _, behind = around(as_vgg(pruned), name, own=True)
            self._repair(behind, inputs)
            chains.append(
                Chain.of(fused_layers_from(fused_layers_of(pruned, self.side), name, own=True))
            )
        return chains

    def _repair(self, behind: nn.Module, inputs: Sequence[torch.Tensor]) -> None:
        """Correct, in place, what is behind the pruned layer, of which ``inputs`` are batches of the input."""
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
    """A layer's levels (a :class:`tp_vgg.sensitivity.levels.LayerLevels`) where each has a chain of its own."""

    chains: Sequence[Chain]
    counts: Sequence[int] | None
    """Channels of the input that each sees; all where ``None``."""

    def logits(self, x: torch.Tensor, chosen: Sequence[int]) -> Iterator[torch.Tensor]:
        for i in chosen:
            yield self.chains[i].logits(
                x if self.counts is None else x[..., : self.counts[i]].contiguous()
            )
