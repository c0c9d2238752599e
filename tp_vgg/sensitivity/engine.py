"""The engine evaluates all points of a sweep by walking over the network's layers.

Everything before the pruned layer is the same for every level. So the activations of all images
advance one layer at a time, and each level runs only what follows. A structured level needs only
the layer's kept channels, which are a part of its stored output.

Images are evaluated in fixed blocks. The chunks that fit in memory and the shares of the ranks end
on block boundaries, so the numbers depend on neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from tp_vgg.pruning.ranking import rank
from tp_vgg.pruning.unstructured import magnitude_masks
from tp_vgg.sensitivity.chain import Chain, fused_layers_of, with_channels_in_order
from tp_vgg.sensitivity.fused_layer import Buffers, FusedLayer
from tp_vgg.sensitivity.hit_table import HitTable
from tp_vgg.sensitivity.levels import LayerLevels, MaskedLevels, NarrowedLevels, RefittedLevels
from tp_vgg.sensitivity.reconstructed import Reconstruction
from tp_vgg.sensitivity.repaired import RepairedLevels, SweepRepair
from tp_vgg.sensitivity.resolved import ResolvedSweep
from tp_vgg.sensitivity.screening import Classifier, bounded

SWEEP_BLOCK = {"cpu": 250, "cuda": 5000}
"""Images evaluated together, by device type; all levels reuse the output buffers of one block."""
SCREENING_IMAGES = 256
"""Size of the sample on which bf16's error is measured before it screens."""
_BAR = "{l_bar}{bar}| {n:.0f}/{total_fmt} points [{elapsed}<{remaining}{postfix}]"


@dataclass(frozen=True)
class _Chunk:
    """A chunk is a range of images whose activations are held at once."""

    span: slice
    blocks: Sequence[slice]
    """This rank's share of the span, in blocks."""


class Engine:
    """An engine evaluates every point of one sweep for one network and its images.

    It holds the network as chains of fused layers: one in fp32 and, unless the precision is fp32,
    one in bf16.
    """

    def __init__(
        self,
        model: Network,
        split: Split,
        sweep: ResolvedSweep,
        ranks: Ranks,
        *,
        quiet: bool = True,
    ) -> None:
        """``quiet``: no progress bar for a ranking that looks at images."""
        self._model, self._split, self._sweep, self._ranks = model, split, sweep, ranks
        self._device = split.labels.device
        self._normalise = Normalisation.of(model.meta).on(self._device)
        layers = fused_layers_of(model, split.images.shape[-1])
        self._repair = (
            SweepRepair(model, sweep.repair, sweep.sample, split.images.shape[-1])
            if sweep.sample is not None
            else None
        )
        self._orders: dict[str, torch.Tensor] = {}
        if sweep.kind == "structured":
            with torch.inference_mode(False):
                images = None if sweep.repair_images is None else sweep.repair_images.images
                names, importance, seed = list(sweep.removed), sweep.importance, sweep.seed
                scores = rank(model, names, importance, seed, images, quiet=quiet)
            orders = ranks.broadcast(
                {
                    name: score.argsort(descending=True, stable=True)
                    for name, score in scores.items()
                }
            )
            self._orders = {name: order.to(self._device) for name, order in orders.items()}
            layers = with_channels_in_order(layers, self._orders)
        self._reconstruction = (
            Reconstruction(model, sweep.repair_images, sweep.seed, self._orders)
            if sweep.repair_images is not None
            else None
        )
        self._exact = Chain.of(layers)
        self._screen = self._exact.to(torch.bfloat16) if sweep.precision != "fp32" else None
        self._buffers = Buffers()
        self._block = SWEEP_BLOCK[self._device.type]

    @torch.inference_mode()
    def fill(self, hit_table: HitTable, quiet: bool) -> None:
        """Evaluate everything that is unknown in ``hit_table``, layer by layer.

        As many images at a time are evaluated as have activations that fit in half of the free
        memory. If memory runs out all the same, evaluation goes on in blocks of half the images,
        with a warning. With several ranks, or at blocks of one image, the error is raised.
        ``quiet``: no progress bar.
        """
        options: dict[str, Any] = {"total": len(hit_table.rows), "initial": hit_table.points}
        label = f"{self._sweep.kind} sweep"
        with progress_bar(label, unit="point", quiet=quiet, bar_format=_BAR, **options) as bar:
            while True:
                try:
                    return self._fill(hit_table, bar)
                except (RuntimeError, MemoryError) as error:
                    if not out_of_memory(error) or self._block == 1 or self._ranks.size > 1:
                        raise
                self._buffers.clear()
                self._block = halved(self._block)

    def _fill(self, hit_table: HitTable, bar: tqdm[Any]) -> None:
        bar.update(hit_table.points - bar.n)  # less than before if memory ran out in a layer
        rows_of = [self._rows(hit_table, place) for place in self._exact.places]
        for chunk in self._chunks():
            if hit_table.unknown(range(len(hit_table.rows)), chunk.span).any():
                self._walk(hit_table, chunk, rows_of, bar)

    @torch.inference_mode()
    def logits(self, name: str) -> torch.Tensor:
        """Return the fp32 logits with layer ``name`` at each level, ``[levels, n, classes]``.

        All images are evaluated at once, so they must fit in memory.
        """
        place = self._exact.place_of(name)
        x = self._exact.input_of(place, self._images(slice(None)))
        if self._sweep.kind == "structured":
            x = self._exact.roll(x, place)
        levels = self._levels(self._exact, place, self._masks(name))
        return torch.stack(
            [logits.clone() for logits in levels.logits(x, range(len(self._sweep.levels)))]
        )

    def _walk(
        self, hit_table: HitTable, chunk: _Chunk, rows_of: Sequence[Sequence[int]], bar: tqdm[Any]
    ) -> None:
        # The input of the current layer for each block; None stands for the images themselves.
        inputs: list[torch.Tensor | None] = [None] * len(chunk.blocks)
        sample = (
            self._screening_sample()
            if self._screen and self._sweep.precision == "screened"
            else None
        )
        for place, rows in enumerate(rows_of):
            if not hit_table.unknown(
                [row for later in rows_of[place:] for row in later], chunk.span
            ).any():
                return
            bar.set_postfix_str(self._exact.layers[place].name)
            after = None if sample is None else self._exact.roll(sample, place)
            todo = rows if hit_table.unknown(rows, chunk.span).any() else []
            self._buffers.clear()  # the shapes of the layer before were different
            classifier = self._classifier(place, sample, after) if todo and todo != [0] else None
            hits = torch.zeros(
                len(todo),
                chunk.span.stop - chunk.span.start,
                dtype=torch.uint8,
                device=self._device,
            )
            redone = torch.zeros(len(todo), dtype=torch.int64, device=self._device)
            points = hit_table.missing(todo, chunk.span) / len(self._split)
            images = sum(block.stop - block.start for block in chunk.blocks)
            for i, block in enumerate(chunk.blocks):
                x = self._images(block) if (before := inputs[i]) is None else before
                inputs[i] = y = self._exact.roll(x, place)
                columns = slice(block.start - chunk.span.start, block.stop - chunk.span.start)
                unknown = hit_table.unknown(todo, block)
                if not unknown.any():
                    hits[:, columns] = torch.from_numpy(hit_table.hits[todo, block]).to(
                        self._device
                    )
                elif classifier is None:
                    hits[0, columns] = classes_of(y) == self._split.labels[block]
                else:
                    pruned = x if self._sweep.kind == "unstructured" else y
                    for row, (classes, again) in enumerate(
                        classifier.predictions(pruned, len(todo))
                    ):
                        hits[row, columns] = classes == self._split.labels[block]
                        redone[row] += again * bool(unknown[row])
                bar.update(points * (block.stop - block.start) / images)
            sample = after
            if todo:
                hit_table.add(todo, chunk.span.start, hits, redone)
                bar.update(hit_table.points - bar.n)  # exactly, with the other ranks' share

    def _rows(self, hit_table: HitTable, place: int) -> list[int]:
        """Return the rows of ``hit_table`` that are evaluated at layer ``place``.

        They are the layer's levels; at the last layer, the dense model.
        """
        wanted = None if self._exact.is_last(place) else self._exact.layers[place].name
        return [row for row, (name, _) in enumerate(hit_table.rows) if name == wanted]

    def _chunks(self) -> list[_Chunk]:
        """Split all blocks into chunks whose activations fit in half of the free memory.

        The blocks of each chunk are shared out over the ranks.
        """
        n, size = len(self._split), self._block
        blocks = [slice(start, min(start + size, n)) for start in range(0, n, size)]
        widest = 4 * self._exact.widest
        budget = free_memory(self._device) // 2 // self._ranks.on_machine
        at_once = self._ranks.broadcast(self._ranks.size * max(1, budget // (widest * size)))
        groups = [blocks[first : first + at_once] for first in range(0, len(blocks), at_once)]
        return [
            _Chunk(slice(group[0].start, group[-1].stop), self._ranks.shard(group))
            for group in groups
        ]

    def _images(self, indices: slice | torch.Tensor) -> torch.Tensor:
        """Return the normalised images, fp32 [n, side, side, 3]."""
        return self._normalise(self._split.images[indices]).permute(0, 2, 3, 1).contiguous()

    def _screening_sample(self) -> torch.Tensor:
        labels = self._split.labels
        chosen = stratified(labels.cpu().numpy(), SCREENING_IMAGES, 0)
        return self._images(torch.from_numpy(chosen).to(labels.device))

    def _classifier(
        self, place: int, before: torch.Tensor | None, after: torch.Tensor | None
    ) -> Classifier:
        """Return the classifier for the levels of the layer at ``place``.

        ``before`` and ``after`` are the layer's input and output for the screening sample.
        """
        masks = self._masks(self._exact.layers[place].name)
        if self._screen is None:
            return Classifier(self._levels(self._exact, place, masks), None)
        screen = self._levels(self._screen, place, masks)
        if self._sweep.precision == "bf16":
            return Classifier(None, screen)
        sample = after if self._sweep.kind == "structured" else before
        assert sample is not None
        return bounded(
            self._levels(self._exact, place, masks), screen, sample, len(self._sweep.levels)
        )

    def _levels(self, chain: Chain, place: int, masks: Sequence[torch.Tensor]) -> LayerLevels:
        layer = chain.layers[place]
        if self._reconstruction is not None and layer.name in self._sweep.refitted:
            return self._reconstructed(self._reconstruction, chain, place, masks)
        if self._repair is not None:
            return self._repaired(self._repair, layer, masks)
        if self._sweep.kind == "structured":
            counts = [len(layer.weight) - removed for removed in self._sweep.removed[layer.name]]
            return NarrowedLevels(chain, chain.follows(place), counts, self._buffers)
        layers = [replace(layer, weight=self._masked(layer, mask)) for mask in masks]
        return MaskedLevels.of(chain, place, layers, self._buffers)

    def _reconstructed(
        self, repair: Reconstruction, chain: Chain, place: int, masks: Sequence[torch.Tensor]
    ) -> LayerLevels:
        """Return the levels at which the first layer that the pruning changes is refitted."""
        layer = self._exact.layers[place]
        if self._sweep.kind == "unstructured":
            return MaskedLevels.of(chain, place, repair.masked(layer, masks), self._buffers)
        counts = [len(layer.weight) - removed for removed in self._sweep.removed[layer.name]]
        place = chain.follows(place)
        reader, order = self._exact.layers[place], self._orders[layer.name]
        layers = repair.narrowed(reader, order, counts)
        return RefittedLevels.of(chain, place, layers, counts, self._buffers)

    def _repaired(
        self, repair: SweepRepair, layer: FusedLayer, masks: Sequence[torch.Tensor]
    ) -> LayerLevels:
        counts: list[int] | None = None
        with torch.inference_mode(False):
            if self._sweep.kind == "structured":
                counts = [
                    len(layer.weight) - removed for removed in self._sweep.removed[layer.name]
                ]
                chains = repair.narrowed(layer.name, self._orders[layer.name], counts)
            else:
                chains = repair.masked(layer.name, masks)
        return RepairedLevels([chain.to(layer.weight.dtype) for chain in chains], counts)

    def _masks(self, name: str) -> list[torch.Tensor]:
        """Return the masks of the layer's original weight, by level; [] for a structured sweep.

        They fit the folded weight too, because folding batch norm scales whole filters.
        """
        if self._sweep.kind == "structured":
            return []
        weight = self._model.get_submodule(name).get_parameter("weight").detach().contiguous()
        return list(magnitude_masks(weight.abs(), self._sweep.removed[name]))

    def _masked(self, layer: FusedLayer, mask: torch.Tensor) -> torch.Tensor:
        """Return the masked weight; a folded head is masked before its columns are summed."""
        if mask.shape == layer.weight.shape:
            return layer.weight * mask
        whole = self._model.get_submodule(layer.name).get_parameter("weight").detach()
        return fold_head_columns(whole * mask).to(layer.weight.dtype)
