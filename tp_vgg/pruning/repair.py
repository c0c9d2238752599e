"""A pruned network gets most of its accuracy back from unlabelled images, without training."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import islice

import torch
from torch import nn

from tp_vgg.evaluation.images import Unlabelled
from tp_vgg.evaluation.repaired import LayerRepair, RepairResult
from tp_vgg.files.checks import MAX_SEED, true_or_false, whole_number
from tp_vgg.machine.console import progress_bar
from tp_vgg.machine.precision import autocast, exact_fp32
from tp_vgg.network.doors import check_built, runnable_network
from tp_vgg.network.families import segments
from tp_vgg.network.masks import masked_tensors, refresh_masked_weights
from tp_vgg.network.mode import modes_kept
from tp_vgg.network.network import Network, Segment
from tp_vgg.pruning.paired_walk import Activations
from tp_vgg.pruning.pruned_pair import (
    check_weights,
    kept_places,
    layer_names,
    same_norm,
    same_rows,
)
from tp_vgg.pruning.rebase import (
    ChannelStatistics,
    matching_scale,
    rebase,
    restore_row_norms,
    row_norms,
)
from tp_vgg.pruning.refit import correction, neighbours, refit, relative_error
from tp_vgg.pruning.repair_sample import LEAST_IMAGES, RepairSample, repair_sample
from tp_vgg.pruning.repairs import REPAIR_IMAGES

log = logging.getLogger(__name__)

_FEW_ZEROS = 0.001
"""Smaller parts of a layer's weights may be 0 by chance."""


def repair(
    model: Network,
    dense: Network,
    images: Unlabelled,
    *,
    layers: Iterable[str] | None = None,
    limit: int = REPAIR_IMAGES,
    flip: bool = False,
    seed: int = 0,
    move_zeros: bool = False,
    quiet: bool = True,
) -> RepairResult:
    """Refit the weights of a pruned ``model`` in place, so that it computes what ``dense`` did.

    No label is read and nothing is trained. Each layer's weights are a least-squares problem in
    closed form, solved layer by layer from the input on. Let X be what the layer reads in the
    pruned network, as repaired so far: a row for each sample (for a conv a patch at one position of
    the map, for a linear layer an image), a column for each weight of an output. Let Y be what the
    same layer gives in ``dense`` before batch norm, for the outputs that ``model`` still has, and
    W₀ the weights that are left, as columns. (Where the two batch norms differ, as after an earlier
    repair, Y is scaled and shifted for that of ``model``.) The new weights minimise

        ‖X W − Y‖² + λ ‖W − W₀‖²,  λ = 0.1 · mean of the diagonal of XᵀX,

    with X and Y centred in the first term, which leaves the bias free. Weights that are exactly 0
    stay 0: each output then has a problem of its own, of the weights that are left. XᵀX is
    [columns, columns] and is summed over the images, from at most 64 drawn positions of each map;
    a conv's patches are never held together. It is solved in fp64: by Cholesky; for many weights
    among zeros by conjugate gradients (relative residual 3e-2). A linear layer with fewer samples
    than inputs is solved in the dual form W = W₀ + Xᵀ(XXᵀ + λI)⁻¹(Y − XW₀), unless over a tenth of
    its outputs have zeros and it has at most 8,192 inputs. For the last layer, Y is the logits.

    With ``move_zeros``, each layer keeps the number of its zeros but not their places: the weights
    that it has in ``dense`` are refitted as a whole, the smallest become the zeros, and the dense
    values of the others are refitted again, as W₀. So weights count by what they are worth on the
    inputs that pruning left. A weight that is 0 in ``dense`` stays 0, and masks move with the
    zeros. Do not use it if ``model`` was trained since the pruning, which would be lost, or if the
    places of the zeros matter, such as 2 of every 4. A layer with hardly more zeros than in
    ``dense`` (below 1 in 1,000) is refitted as without it.

    Batch norm behind each layer that is not left as it was is re-based: its running statistics
    become those of the repaired network. The refitted weights of each output get the norm that they
    had before, which suits the rate of a training. Batch norm's scale and shift change so that the
    function stays the same.

    A layer whose inputs and weights pruning left as they were stays as it is, to the bit. One image
    in ten is held out. A layer whose error on these does not fall, or has no finite solution, keeps
    its weights, and a note in the log says so.

    ``images``: uint8 images [N, 3, S, S], which ``model.meta`` says how to normalise, or floats
    that go to the network as they are: a tensor, a :class:`~tp_vgg.Split`, a pair (images, labels)
    or a ``DataLoader``, whose labels are ignored. They should be training images. ``limit`` of them
    are used: drawn by ``seed``, but of a loader the first ones, so shuffle it. Each is used as it
    is and shifted by up to 4 pixels: once, or three times if weights were set to zero, or 1 in
    1,000 of a layer of ``dense`` are zero. With ``flip``, half of the shifted ones are mirrored.
    ``layers``: names of the layers to refit; ``None`` is every conv and every linear layer.
    ``dense``: the network just before the pruning, on the same device; it is not changed. Both may
    have masks of ``torch.nn.utils.prune``. ``quiet``: no progress bar.

    Returns the relative error of each layer's outputs on the held-out images, before and after the
    fit. The same arguments give the same bits on the same machine.

    Raises :class:`BadInput`, and changes nothing, for a ``model`` that was not pruned from
    ``dense``, and for networks and images that do not fit. After Ctrl-C the layers before the
    interrupted one are repaired.

    Sources: He, Zhang & Sun 2017 (channel pruning) and Luo, Wu & Lin 2017 (ThiNet): least squares
    after channel pruning; Frantar & Alistarh 2022 (Optimal Brain Compression) and 2023 (SparseGPT):
    the same for zeros; He et al. 2017 and Frantar et al.: fitted to the repaired layers before.
    """
    network, reference = runnable_network(model), runnable_network(dense, "dense")
    check_weights(network)
    check_built(network)
    check_built(reference, "dense")
    places = kept_places(network, reference)
    names = layer_names(network, layers)
    seed = whole_number("seed", seed, 0, MAX_SEED)
    true_or_false("flip", flip)
    true_or_false("move_zeros", move_zeros)
    true_or_false("quiet", quiet)
    limit = whole_number("limit", limit, LEAST_IMAGES, MAX_SEED)
    sample = repair_sample("images", images, network, limit, seed)
    refresh_masked_weights(network)
    refresh_masked_weights(reference)
    with (
        modes_kept(network),
        modes_kept(reference),
        torch.no_grad(),
        exact_fp32(),
        autocast(sample.device, torch.float32),
    ):
        network.eval()
        reference.eval()
        zeroed = is_sparse(reference) or _has_more_zeros(network, reference)
        blocks = RepairSample.of(sample, zeroed=zeroed, flip=flip, seed=seed)
        walk = _Walk(blocks, seed, move_zeros)
        pairs = list(zip(segments(network), segments(reference), strict=True))
        reads = {row.name: row.reads for row in network.spec.rows}
        results = {}
        for part, whole in progress_bar("repair", pairs, unit="layer", leave=False, quiet=quiet):
            result = walk.through(
                part, whole, places[part.name], reads[part.name], part.name in names
            )
            if result is not None:
                results[part.name] = result
    return RepairResult(results, len(sample) - blocks.held_out, blocks.held_out)


class _Walk:
    """A walk takes both networks from segment to segment, and refits the pruned one's layers.

    Each layer is fitted to what the repaired layers before it give.
    """

    def __init__(self, sample: RepairSample, seed: int, move_zeros: bool) -> None:
        self._sample, self._seed, self._moves = sample, seed, move_zeros
        self._read: torch.Tensor | None = None
        """Dense channels that the next layer reads; ``None``: those of the images."""
        self._model, self._dense = Activations(sample.blocks), Activations(sample.blocks)
        self._intact = True
        """True as long as both networks give the same activations, to the bit."""

    def through(
        self, part: Segment, whole: Segment, places: list[int], reads: int, chosen: bool
    ) -> LayerRepair | None:
        """Take both networks through one segment; refit the layer of ``part`` if ``chosen``.

        ``places``: the channels of ``whole`` that ``part`` has. Returns ``None`` unless chosen.
        """
        layer, norm = part.layer, part.norm
        unchanged = self._intact and same_rows(layer, whole.layer, places)
        self._intact = (
            unchanged
            and len(places) == len(whole.layer.weight)
            and (norm is None or whole.norm is None or same_norm(norm, whole.norm))
        )
        refits = chosen and not unchanged
        norms = None
        if refits and norm is not None and not masked_tensors(norm):
            norms = row_norms(layer)
        scale = None
        if refits and norm is not None and whole.norm is not None:
            scale = matching_scale(norm, whole.norm, places)
        held_out: list[torch.Tensor] = []
        pairs = self._wanted(whole, places, held_out, scale)
        result = None
        if refits:
            dense = self._dense_weight(part, whole, places, reads) if self._moves else None
            if dense is not None and scale is not None:
                dense = dense * scale[0].view(-1, 1, 1, 1)
            result = self._refit(part, pairs, held_out, reads, dense)
        else:
            for _ in pairs:
                pass
            result = LayerRepair(0.0, 0.0, "unchanged") if chosen else None
        self._read = torch.tensor(places, device=whole.layer.weight.device)
        self._dense.moved(whole.layer, whole.rest)
        statistics = ChannelStatistics()
        for number, inputs in enumerate(self._model):
            outputs = layer(inputs)
            if number < self._sample.plain_blocks and norm is not None:
                statistics.add(outputs)
            self._model.move(outputs, part.rest)
        self._model.moved(layer, part.rest)
        if norm is not None and norms is not None:
            rebase(norm, statistics)
            restore_row_norms(layer, norm, norms)
        return result

    def _refit(
        self,
        part: Segment,
        pairs: Iterator[tuple[torch.Tensor, torch.Tensor]],
        held_out: list[torch.Tensor],
        reads: int,
        dense: torch.Tensor | None,
    ) -> LayerRepair:
        """Refit the layer of ``part``, unless its error on the held-out images does not fall.

        ``dense``: its weight before the pruning, if its zeros are to move.
        """
        layer = part.layer
        # Each layer's draws must not depend on which others are refitted.
        generator = torch.Generator().manual_seed(self._seed)
        found = correction(layer, pairs, generator, reads, dense)
        before, after = refit(layer, found, lambda: self._error(layer, held_out))
        if after < before:
            return LayerRepair(before, after, "refitted")
        log.info(
            f"repair: {part.name} keeps its weights: refitted, its error on "
            f"{self._sample.held_out} held-out images would be {after:.6g} instead of {before:.6g}"
        )
        return LayerRepair(before, before, "kept")

    def _dense_weight(
        self, part: Segment, whole: Segment, places: list[int], reads: int
    ) -> torch.Tensor | None:
        """Return the weight that ``part`` had in the dense network, for what it still reads.

        ``None`` unless 1 in 1,000 weights, or more, were set to zero since.
        """
        weight = whole.layer.weight.detach()[places]
        if self._read is not None:
            weight = weight[:, neighbours(self._read, reads)]
        more = int((part.layer.weight == 0).sum()) - int((weight == 0).sum())
        return weight if more > 0 and more >= _FEW_ZEROS * weight.numel() else None

    def _wanted(
        self,
        whole: Segment,
        places: list[int],
        held_out: list[torch.Tensor],
        scale: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Move the dense network on; yield the layer's inputs and wanted outputs.

        The wanted outputs of the held-out images go to ``held_out`` instead. ``scale``: what
        :func:`~tp_vgg.pruning.rebase.matching_scale` gives for them.
        """
        for number, (inputs, full) in enumerate(zip(self._model, self._dense, strict=True)):
            outputs = whole.layer(full)
            target = outputs[:, places]
            if scale is not None:
                factor, shift = (one.view(-1, 1, 1) for one in scale)
                target = target * factor + shift
            self._dense.move(outputs, whole.rest)
            if number < self._sample.held_blocks:
                held_out.append(target)
            else:
                yield inputs, target

    def _error(self, layer: nn.Module, wanted: list[torch.Tensor]) -> float:
        """Return the relative error of the layer's outputs on the held-out images."""
        held_out = islice(self._model, self._sample.held_blocks)
        return relative_error(layer, zip(held_out, wanted, strict=True))


def is_sparse(model: Network) -> bool:
    """Return True if 1 in 1,000 weights of a conv or linear layer, or more, are exactly 0."""
    return any(
        zeros >= _FEW_ZEROS * part.layer.weight.numel()
        for part, zeros in zip(segments(model), _zeros(model), strict=True)
    )


def _has_more_zeros(model: Network, dense: Network) -> bool:
    """Return True if weights were set to zero: a layer has more zeros than that of ``dense``."""
    return any(zeros > before for zeros, before in zip(_zeros(model), _zeros(dense), strict=True))


def _zeros(model: Network) -> list[int]:
    """Return the number of weights of each conv and linear layer that are exactly 0."""
    return [int((part.layer.weight == 0).sum()) for part in segments(model)]
