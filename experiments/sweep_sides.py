"""These are the sweeps that sweep_speed.py times, and how they take turns.

(a) is the notebook's naive loop, (b) the engine's kernels over the whole network for every point,
and the third the sweep after the repair.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

from tp_vgg.data.split import Normalisation, Split
from tp_vgg.evaluation.hits import unpack_hits
from tp_vgg.network.masks import remove_masks
from tp_vgg.network.vgg.model import VGG
from tp_vgg.pruning.criteria import Kind
from tp_vgg.pruning.ranking import rank
from tp_vgg.pruning.ratios import Plan
from tp_vgg.pruning.structured import remove_channels
from tp_vgg.pruning.unstructured import mask_layers
from tp_vgg.sensitivity.chain import Chain, fused_layers_of, with_channels_in_order
from tp_vgg.sensitivity.fused_layer import Buffers, FusedLayer
from tp_vgg.sensitivity.resolved import ResolvedSweep
from tp_vgg.sensitivity.sweep import run

BLOCK = 250
"""Images evaluated together by (b) and in the times of each kernel."""


def now(device: torch.device) -> float:
    """Return the time in seconds once the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@torch.inference_mode()
def naive_correct(model: VGG, loader: Iterable[Any], device: torch.device) -> int:
    """Count the images of ``loader`` that ``model`` classifies correctly."""
    return sum(
        int((model(images.to(device)).argmax(1) == labels.to(device)).sum())
        for images, labels in loader
    )


@torch.inference_mode(False)
def naive_point(model: VGG, kind: Kind, name: str, level: float, removed: int) -> VGG:
    """Return the network of (a): a copy of ``model`` with the layer ``name`` pruned.

    ``removed``: the number of channels to remove, used if ``kind`` is structured. ``level``: the
    sparsity, used if it is unstructured.
    """
    pruned = copy.deepcopy(model)
    if kind == "structured":
        width = pruned.spec.prunable[name]
        remove_channels(pruned, pruned.spec.with_widths({name: width - removed}))
    else:
        mask_layers(pruned, Plan.of({name: level}, "level"))
        remove_masks(pruned)
    return pruned.eval()


def whole_chain(
    model: VGG, layers: list[FusedLayer], kind: Kind, name: str, level: float, removed: int
) -> Chain:
    """Return the network of (b): the same as in (a), as a chain of the engine's fused layers.

    ``layers``: the dense network's, with the channels of each layer by falling importance.
    """
    if kind == "unstructured":
        return Chain.of(fused_layers_of(naive_point(model, kind, name, level, removed), 32))
    place = next(i for i, layer in enumerate(layers) if layer.name == name)
    layer, after = layers[place], layers[place + 1]
    count = len(layer.weight) - removed
    narrowed = [
        replace(layer, weight=layer.weight[:count], bias=layer.bias[:count]),
        replace(after, weight=after.weight[:, :count].contiguous()),
    ]
    return Chain.of([*layers[:place], *narrowed, *layers[place + 2 :]])


@torch.inference_mode()
def chain_correct(
    chain: Chain, split: Split, normalisation: Normalisation, buffers: Buffers
) -> int:
    """Count the images of ``split`` that ``chain`` classifies correctly."""
    hits = 0
    for images, labels in split.blocks(BLOCK):
        x = normalisation(images).permute(0, 2, 3, 1).contiguous()
        hits += int((chain.logits(x, 0, buffers).argmax(1) == labels).sum())
    return hits


class Repaired:
    """It stands in for the journal of the sweep after the repair, which waits after each layer."""

    def __init__(self, model: VGG, split: Split, sweep: ResolvedSweep) -> None:
        self.entries: list[dict[str, Any]] = []
        """Entries of an earlier run, as a journal has them; there are none."""
        self._device = split.labels.device
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._swept: tuple[dict[str, Any], float] | None = None
        self._start = 0.0

        def work() -> None:
            self._go.acquire()
            try:
                self._start = now(self._device)
                run(model, split, sweep, "", self)  # type: ignore[arg-type]
            finally:
                self._done.release()

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    def append(self, *entries: dict[str, Any]) -> None:
        """Take the time of the layer, and wait for the next turn."""
        self._swept = entries[0], now(self._device) - self._start
        self._done.release()
        self._go.acquire()
        self._start = now(self._device)

    def turn(self, entry: dict[str, Any]) -> float:
        """Sweep the layer and images of ``entry``, which the plain sweep has; return the seconds.

        Raises ``RuntimeError`` if other ones come, or none.
        """
        self._swept = None
        self._go.release()
        self._done.acquire()
        if self._swept is None:
            raise RuntimeError("the sweep after the repair failed; its traceback is above")
        swept, seconds = self._swept
        if (swept["layer"], swept["n"]) != (entry["layer"], entry["n"]):
            raise RuntimeError("the images must be in memory at once, for both sweeps")
        return seconds

    def finish(self) -> None:
        """Let the sweep end behind its last layer."""
        self._go.release()
        self._thread.join()


class Turns:
    """A Turns stands in for the engine's journal, so that the methods take turns.

    Whenever the engine has finished a layer, the others evaluate the same layer.
    """

    def __init__(
        self, model: VGG, split: Split, sweep: ResolvedSweep, repaired: Repaired, loop_images: int
    ) -> None:
        self.entries: list[dict[str, Any]] = []
        """Entries of an earlier run, as a journal has them; there are none."""
        self.seconds: dict[str, dict[str, float]] = {}
        """Seconds by layer and method."""
        self.differences: dict[str, list[int]] = {"naive": [], "whole": []}
        """Absolute difference of each point's correct-count from the engine's."""
        self._model, self._sweep, self._repaired = model, sweep, repaired
        self._images = len(split)
        self._split = split = Split(split.images[:loop_images], split.labels[:loop_images])
        self._normalisation = Normalisation.of(model.meta)
        self._device = split.labels.device
        images = self._normalisation(split.images).contiguous()
        self._loader = DataLoader(TensorDataset(images.cpu(), split.labels.cpu()), 128)
        self._buffers = Buffers()
        layers = fused_layers_of(model, split.images.shape[-1])
        scores = rank(model, list(sweep.removed))
        orders = {
            name: score.argsort(descending=True, stable=True) for name, score in scores.items()
        }
        self._layers = with_channels_in_order(layers, orders)
        self.start = now(self._device)

    def append(self, *entries: dict[str, Any]) -> None:
        """Take the time of the engine's layer, then evaluate its points by the others."""
        engine = now(self._device) - self.start
        name = entries[0]["layer"]
        assert entries[0]["n"] == self._images, "the images must be in memory at once"
        repaired = self._repaired.turn(entries[0])
        seconds = {"engine": engine, "repaired": repaired, "naive": 0.0, "whole": 0.0}
        loops = self._images / len(self._split)
        for entry, removed in zip(entries, self._sweep.removed.get(name, ()), strict=False):
            point = (self._sweep.kind, name, entry["ratio"], removed)
            correct = int(unpack_hits(entry["hits"], entry["n"])[: len(self._split)].sum())
            start = now(self._device)
            naive = naive_correct(naive_point(self._model, *point), self._loader, self._device)
            between = now(self._device)
            chain = whole_chain(self._model, self._layers, *point)
            whole = chain_correct(chain, self._split, self._normalisation, self._buffers)
            seconds["naive"] += loops * (between - start)
            seconds["whole"] += loops * (now(self._device) - between)
            self.differences["naive"].append(abs(correct - naive))
            self.differences["whole"].append(abs(correct - whole))
        self.seconds[name or "the rest of the dense pass"] = seconds
        self.start = now(self._device)
