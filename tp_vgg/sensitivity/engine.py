"""The walk of a sweep over the network.

What comes before the pruned layer is the same for every level, so the activations of all images roll forward one layer at a time;
a structured point needs the layer's kept channels alone, which are a part of its stored output. Images are evaluated in fixed
blocks, and shares of memory and of ranks end on block boundaries: the same numbers come out whatever either is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from tp_vgg.data.split import Normalisation, Split, stratified
from tp_vgg.errors import out_of_memory
from tp_vgg.evaluation.evaluate import classes_of
from tp_vgg.machine.console import progress_bar
from tp_vgg.machine.distributed import Ranks
from tp_vgg.machine.memory import free_memory, halved
from tp_vgg.network.network import Network
from tp_vgg.network.vgg.fold import fold_head_columns
from tp_vgg.pruning.structured import rank
from tp_vgg.pruning.unstructured import magnitude_masks
from tp_vgg.sensitivity.chain import Chain, fused_layers_of, with_channels_in_order
from tp_vgg.sensitivity.fused_layer import Buffers, FusedLayer
from tp_vgg.sensitivity.hit_table import HitTable
from tp_vgg.sensitivity.levels import LayerLevels, MaskedLevels, NarrowedLevels
from tp_vgg.sensitivity.repaired import RepairedLevels, SweepRepair
from tp_vgg.sensitivity.resolved import ResolvedSweep
from tp_vgg.sensitivity.screening import Classifier, bounded

SWEEP_BLOCK = {"cpu": 250, "cuda": 5000}
"""Images evaluated together; the outputs of one block stay in buffers that every level uses again."""
SCREENING_IMAGES = 256
"""On which the error of bf16 is seen before it screens."""


@dataclass(frozen=True)
class _Chunk:
    """Images whose activations are held at once."""

    span: slice
    blocks: Sequence[slice]
    """This rank's share of the span."""


class Engine:
    """A network as chains of steps, its images, and what is asked of it."""

    def __init__(self, model: Network, split: Split, asked: ResolvedSweep, ranks: Ranks) -> None:
        self._model, self._split, self._asked, self._ranks = model, split, asked, ranks
        self._device = split.labels.device
        self._normalise = Normalisation.of(model.meta).on(self._device)
        steps = fused_layers_of(model, split.images.shape[-1])
        self._refit = (
            SweepRepair(model, asked.repair, asked.sample, split.images.shape[-1])
            if asked.sample is not None
            else None
        )
        self._orders: dict[str, torch.Tensor] = {}
        if asked.kind == "structured":
            with torch.inference_mode(False):
                scores = rank(model, list(asked.removed), asked.importance, asked.seed)
            orders = ranks.broadcast(
                {
                    name: score.argsort(descending=True, stable=True)
                    for name, score in scores.items()
                }
            )
            self._orders = {name: order.to(self._device) for name, order in orders.items()}
            steps = with_channels_in_order(steps, self._orders)
        self._exact = Chain.of(steps)
        self._screen = self._exact.to(torch.bfloat16) if asked.precision != "fp32" else None
        self._buffers = Buffers()
        self._block = SWEEP_BLOCK[self._device.type]

    @torch.inference_mode()
    def fill(self, hit_table: HitTable, quiet: bool) -> None:
        """Find out all that ``hit_table`` misses, layer by layer, for as many images at a time as half of the free memory holds
        activations of; where it runs out all the same, in blocks of half the images, with a warning."""
        while True:
            try:
                return self._fill(hit_table, quiet)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or self._block == 1 or self._ranks.size > 1:
                    raise
            self._buffers.clear()
            self._block = halved(self._block)

    def _fill(self, hit_table: HitTable, quiet: bool) -> None:
        chunks = self._chunks()
        rows_of = [self._rows(hit_table, place) for place in self._exact.places]
        images = sum(block.stop - block.start for chunk in chunks for block in chunk.blocks)
        total = images * sum(self._macs(place, rows) for place, rows in enumerate(rows_of))
        label = f"{self._asked.kind} sweep"
        with progress_bar(label, unit="MAC", quiet=quiet, total=total, unit_scale=True) as bar:
            for chunk in chunks:
                if hit_table.unknown(range(len(hit_table.rows)), chunk.span).any():
                    self._walk(hit_table, chunk, rows_of, bar)

    @torch.inference_mode()
    def logits(self, layer: str) -> torch.Tensor:
        """The fp32 logits behind the counts of one layer's levels, [levels, n, classes], for all images at once."""
        place = self._exact.place_of(layer)
        x = self._exact.input_of(place, self._images(slice(None)))
        if self._asked.kind == "structured":
            x = self._exact.roll(x, place)
        levels = self._levels(self._exact, place, self._masks(layer))
        return torch.stack(
            [logits.clone() for logits in levels.logits(x, range(len(self._asked.levels)))]
        )

    def _walk(
        self, hit_table: HitTable, chunk: _Chunk, rows_of: Sequence[Sequence[int]], bar: tqdm[Any]
    ) -> None:
        held: list[torch.Tensor | None] = [None] * len(
            chunk.blocks
        )  # each block's input of the step in hand
        sample = (
            self._screening_sample()
            if self._screen and self._asked.precision == "screened"
            else None
        )
        for place, rows in enumerate(rows_of):
            if not hit_table.unknown(
                [row for later in rows_of[place:] for row in later], chunk.span
            ).any():
                return
            bar.set_postfix_str(self._exact.steps[place].name)
            after = None if sample is None else self._exact.roll(sample, place)
            todo = rows if hit_table.unknown(rows, chunk.span).any() else []
            self._buffers.clear()  # of the layer before, whose shapes were other ones
            classifier = self._classifier(place, sample, after) if todo and todo != [0] else None
            hits = torch.zeros(
                len(todo),
                chunk.span.stop - chunk.span.start,
                dtype=torch.uint8,
                device=self._device,
            )
            redone = torch.zeros(len(todo), dtype=torch.int64, device=self._device)
            for i, block in enumerate(chunk.blocks):
                x = self._images(block) if (before := held[i]) is None else before
                held[i] = y = self._exact.roll(x, place)
                there = slice(block.start - chunk.span.start, block.stop - chunk.span.start)
                unknown = hit_table.unknown(todo, block)
                if not unknown.any():
                    hits[:, there] = torch.from_numpy(hit_table.hits[todo, block]).to(self._device)
                elif classifier is None:
                    hits[0, there] = classes_of(y) == self._split.labels[block]
                else:
                    pruned = x if self._asked.kind == "unstructured" else y
                    for row, (classes, again) in enumerate(
                        classifier.predictions(pruned, len(todo))
                    ):
                        hits[row, there] = classes == self._split.labels[block]
                        redone[row] += again * bool(unknown[row])
                bar.update((block.stop - block.start) * self._macs(place, rows))
            sample = after
            if todo:
                hit_table.add(todo, chunk.span.start, hits, redone)

    def _rows(self, hit_table: HitTable, place: int) -> list[int]:
        """Places in the hit_table of what is found out at a step: its layer's levels, or the dense model at the last one."""
        wanted = None if self._exact.is_last(place) else self._exact.steps[place].name
        return [row for row, (layer, _) in enumerate(hit_table.rows) if layer == wanted]

    def _macs(self, place: int, rows: Sequence[int]) -> int:
        """Of one image: the step's own, and for each level what follows it."""
        chain = self._exact
        if chain.is_last(place):
            return chain.macs(place)
        start = chain.follows(place) if self._asked.kind == "structured" else place
        return chain.macs(place) + len(rows) * chain.macs_from(start)

    def _chunks(self) -> list[_Chunk]:
        """As many blocks at a time as half of the free memory holds activations of, shared out over the ranks."""
        n, size = len(self._split), self._block
        blocks = [slice(start, min(start + size, n)) for start in range(0, n, size)]
        widest = 4 * self._exact.widest
        budget = free_memory(self._device) // 2 // self._ranks.on_machine
        at_once = self._ranks.broadcast(self._ranks.size * max(1, budget // (widest * size)))
        together = [blocks[first : first + at_once] for first in range(0, len(blocks), at_once)]
        return [
            _Chunk(slice(some[0].start, some[-1].stop), self._ranks.shard(some))
            for some in together
        ]

    def _images(self, where: slice | torch.Tensor) -> torch.Tensor:
        """Normalised images [n, side, side, 3]."""
        return self._normalise(self._split.images[where]).permute(0, 2, 3, 1).contiguous()

    def _screening_sample(self) -> torch.Tensor:
        labels = self._split.labels
        chosen = stratified(labels.cpu().numpy(), SCREENING_IMAGES, 0)
        return self._images(torch.from_numpy(chosen).to(labels.device))

    def _classifier(
        self, place: int, before: torch.Tensor | None, after: torch.Tensor | None
    ) -> Classifier:
        """Of the levels of the layer at ``place``; ``before`` and ``after`` are the screening sample's activations around it."""
        masks = self._masks(self._exact.steps[place].name)
        if self._screen is None:
            return Classifier(self._levels(self._exact, place, masks), None)
        screen = self._levels(self._screen, place, masks)
        if self._asked.precision == "bf16":
            return Classifier(None, screen)
        sample = after if self._asked.kind == "structured" else before
        assert sample is not None
        return bounded(
            self._levels(self._exact, place, masks), screen, sample, len(self._asked.levels)
        )

    def _levels(self, chain: Chain, place: int, masks: Sequence[torch.Tensor]) -> LayerLevels:
        step = chain.steps[place]
        if self._refit is not None:
            return self._refitted(self._refit, step, masks)
        if self._asked.kind == "structured":
            counts = [len(step.weight) - removed for removed in self._asked.removed[step.name]]
            return NarrowedLevels(chain, chain.follows(place), counts, self._buffers)
        return MaskedLevels(
            chain,
            place,
            [chain.kernels[place].prepare(self._masked(step, mask)) for mask in masks],
            self._buffers,
        )

    def _refitted(
        self, refit: SweepRepair, step: FusedLayer, masks: Sequence[torch.Tensor]
    ) -> LayerLevels:
        counts: list[int] | None = None
        with torch.inference_mode(False):
            if self._asked.kind == "structured":
                counts = [len(step.weight) - removed for removed in self._asked.removed[step.name]]
                chains = refit.narrowed(step.name, self._orders[step.name], counts)
            else:
                chains = refit.masked(step.name, masks)
        return RepairedLevels([chain.to(step.weight.dtype) for chain in chains], counts)

    def _masks(self, name: str) -> list[torch.Tensor]:
        """Masks of the layer's original weights, by level; batch norm's fold scales whole filters, so they fit the folded
        ones. None for a structured sweep."""
        if self._asked.kind == "structured":
            return []
        weight = self._model.get_submodule(name).get_parameter("weight").detach().contiguous()
        return list(magnitude_masks(weight.abs(), self._asked.removed[name]))

    def _masked(self, step: FusedLayer, mask: torch.Tensor) -> torch.Tensor:
        """The step's weight with zeros; a folded head's columns are masked before they are summed."""
        if mask.shape == step.weight.shape:
            return step.weight * mask
        whole = self._model.get_submodule(step.name).get_parameter("weight").detach()
        return fold_head_columns(whole * mask).to(step.weight.dtype)
