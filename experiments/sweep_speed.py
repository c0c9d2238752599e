"""This script times a sensitivity sweep of every conv by the engine and by two slower methods.

(a) is the notebook's naive loop: for every point a deep copy, a new dependency graph or mask, and
the whole network over a DataLoader of batch 128 in contiguous fp32. (b) runs the engine's kernels
on the whole pruned network for every point, so nothing is reused between points. The sweep after
the repair (`sensitivity --repair reconstruct`) is timed too. All take turns layer by layer on the
same images, and the correct-counts of the engine, (a) and (b) are compared. (a) and (b) may have
fewer images (`--loop-images`); their seconds are then multiplied.
"""

from __future__ import annotations

import copy
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from torch.utils.data import DataLoader, TensorDataset

from tp_vgg.data.datasets import load_data
from tp_vgg.data.split import Normalisation, Split
from tp_vgg.evaluation.hits import unpack_hits
from tp_vgg.machine.device import pick_device
from tp_vgg.machine.environment import environment
from tp_vgg.machine.precision import exact_fp32
from tp_vgg.network.checkpoint import load
from tp_vgg.network.masks import remove_masks
from tp_vgg.network.vgg.model import VGG
from tp_vgg.pruning.criteria import Kind
from tp_vgg.pruning.ratios import Plan
from tp_vgg.pruning.repairs import REPAIR_IMAGES
from tp_vgg.pruning.structured import rank, remove_channels
from tp_vgg.pruning.unstructured import mask_layers
from tp_vgg.report.text_table import text_table
from tp_vgg.sensitivity.chain import Chain, fused_layers_of, with_channels_in_order
from tp_vgg.sensitivity.fused_layer import Buffers, FusedLayer
from tp_vgg.sensitivity.kernels import Direct
from tp_vgg.sensitivity.question import SweepQuestion
from tp_vgg.sensitivity.reconstructed import RepairImages
from tp_vgg.sensitivity.resolved import ResolvedSweep
from tp_vgg.sensitivity.sweep import run
from tp_vgg.sensitivity.table import LEVELS

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


@torch.inference_mode()
def kernel_times(model: VGG, split: Split, trials: int) -> Iterator[list[str]]:
    """Yield the table rows of the time of each layer of the dense network alone.

    Times are medians in microseconds per image, by the engine's kernel and by ``conv2d``.
    """
    chain, buffers = Chain.of(fused_layers_of(model, split.images.shape[-1])), Buffers()
    x = Normalisation.of(model.meta)(split.images[:BLOCK]).permute(0, 2, 3, 1).contiguous()
    for place, layer in enumerate(chain.layers):
        candidates: dict[str, Callable[[], object]] = {
            "engine": lambda place=place, x=x: chain.roll(x, place, buffers)
        }  # type: ignore[misc]
        if layer.weight.ndim == 4:
            candidates["channels_last"] = _direct(layer, x, buffers)
            contiguous = x.permute(0, 3, 1, 2).contiguous()
            candidates["contiguous"] = lambda layer=layer, c=contiguous: torch.conv2d(
                c, layer.weight, layer.bias, padding=1
            )  # type: ignore[misc]
        times: dict[str, list[float]] = {name: [] for name in candidates}
        for trial in range(trials + 1):
            for name in list(candidates) if trial % 2 else reversed(candidates):
                start = now(x.device)
                candidates[name]()
                times[name].append(now(x.device) - start)
        medians = [f"{statistics.median(taken[1:]) / len(x) * 1e6:.0f}" for taken in times.values()]
        yield [
            layer.name,
            str(layer.side),
            type(chain.kernels[place]).__name__,
            *medians,
            *["-"] * (3 - len(medians)),
        ]
        x = chain.roll(x, place)


def _direct(layer: FusedLayer, x: torch.Tensor, buffers: Buffers) -> Callable[[], None]:
    kernel = Direct()
    weight, out = kernel.prepare(layer.weight), buffers.take("direct", x, layer.output_shape)
    return lambda: kernel.run_weights([layer], x, [weight], [out])


@click.command()
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True)
@click.option(
    "--dataset",
    type=click.Choice(["cifar10", "folder", "digits"]),
    default="folder",
    show_default=True,
)
@click.option(
    "--data-dir", type=click.Path(path_type=Path), default=Path("data"), show_default=True
)
@click.option(
    "--images",
    type=click.IntRange(min=1),
    default=2000,
    show_default=True,
    help="Number of images from the test split.",
)
@click.option(
    "--loop-images",
    type=click.IntRange(min=1),
    show_default="all",
    help="Number of them for (a) and (b).",
)
@click.option(
    "--kind",
    "kinds",
    type=click.Choice(["structured", "unstructured"]),
    multiple=True,
    help="Kind of pruning; both if left out.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=7,
    show_default=True,
    help="Trials of each kernel alone.",
)
def main(
    checkpoint: Path,
    dataset: str,
    data_dir: Path,
    images: int,
    loop_images: int | None,
    kinds: tuple[Kind, ...],
    device: str,
    trials: int,
) -> None:
    """Print the seconds of the methods by layer, and the time of each kernel alone.

    Beside the seconds are the ratios to the engine and the largest difference in correct-count. The
    report as JSON goes to stderr.
    """
    place = pick_device(device)
    model = load(checkpoint).eval().to(place)
    data = load_data(dataset, data_dir, place, limits=(REPAIR_IMAGES, 1, images))
    split, loop_images = data.test, min(loop_images or images, len(data.test))
    sample = RepairImages.of("--dataset", data.train, model, 0, flip=data.flip)
    report: dict[str, Any] = {
        "images": len(split),
        "loop_images": loop_images,
        "levels": LEVELS,
        "environment": environment(place),
    }
    for kind in kinds or ("structured", "unstructured"):
        sweep = ResolvedSweep.of(SweepQuestion(kind), model)
        question = SweepQuestion(kind, repair="reconstruct")
        repaired = Repaired(model, split, ResolvedSweep.of(question, model, None, sample))
        turns = Turns(model, split, sweep, repaired, loop_images)
        with exact_fp32():
            run(model, split, sweep, "", turns)  # type: ignore[arg-type]
            repaired.finish()
        totals = {
            method: sum(seconds[method] for seconds in turns.seconds.values())
            for method in ("engine", "repaired", "naive", "whole")
        }
        worst = {method: max(counts) for method, counts in turns.differences.items()}
        rows = [
            [
                name,
                *(f"{seconds[method]:.1f}" for method in totals),
                *(f"{seconds[method] / seconds['engine']:.2f}" for method in list(totals)[1:]),
            ]
            for name, seconds in (*turns.seconds.items(), ("all", totals))
        ]
        click.echo(
            f"\n{kind}, {sweep.precision}, {len(split)} images, {len(LEVELS)} levels; seconds"
            f" ((a) and (b): {loop_images} images, times {len(split) / loop_images:g})"
        )
        header = ["layer", "engine", "repaired", "(a) naive", "(b) no prefix"]
        header += [f"{method} ÷ engine" for method in ("repaired", "(a)", "(b)")]
        click.echo(text_table(header, rows))
        click.echo(
            f"largest difference in correct-count: {worst['naive']} to (a), {worst['whole']} to (b)"
        )
        report[kind] = {
            "precision": sweep.precision,
            "seconds": turns.seconds,
            "repaired_ratio": totals["repaired"] / totals["engine"],
            "naive_ratio": totals["naive"] / totals["engine"],
            "whole_ratio": totals["whole"] / totals["engine"],
            "differences": turns.differences,
        }
    table = list(kernel_times(model, split, trials))
    click.echo("\neach layer of the dense network alone, microseconds per image")
    click.echo(
        text_table(
            ["layer", "side", "kernel", "engine", "conv2d channels_last", "conv2d contiguous"],
            table,
        )
    )
    click.echo(json.dumps({**report, "steps": table}), err=True)


if __name__ == "__main__":
    main()
