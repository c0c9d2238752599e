"""Time of a sensitivity sweep of every conv: the engine beside the naive loop, and beside its own kernels without prefix reuse.

(a) is the notebook's loop: for every point a deep copy, a new dependency graph or mask, and the whole network over a DataLoader of
batch 128 in contiguous fp32. (b) runs the engine's kernels on the whole pruned network for every point. The three take turns layer
by layer, on the same images, and their correct-counts are compared.
"""

from __future__ import annotations

import copy
import json
import statistics
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
from tp_vgg.network.vgg.model import VGG
from tp_vgg.pruning.criteria import Kind
from tp_vgg.pruning.ratios import Plan
from tp_vgg.pruning.structured import rank, remove_channels
from tp_vgg.pruning.unstructured import mask_layers, remove_masks
from tp_vgg.report.text_table import text_table
from tp_vgg.sensitivity.chain import Chain, fused_layers_of, with_channels_in_order
from tp_vgg.sensitivity.fused_layer import Buffers, FusedLayer
from tp_vgg.sensitivity.kernels import Direct
from tp_vgg.sensitivity.question import SweepQuestion
from tp_vgg.sensitivity.resolved import ResolvedSweep
from tp_vgg.sensitivity.sweep import run
from tp_vgg.sensitivity.table import LEVELS

BLOCK = 250


def now(device: torch.device) -> float:
    """The time once the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@torch.inference_mode()
def naive_correct(model: VGG, loader: Iterable[Any], device: torch.device) -> int:
    """How many of a loader's images a network gets right."""
    return sum(
        int((model(images.to(device)).argmax(1) == labels.to(device)).sum())
        for images, labels in loader
    )


@torch.inference_mode(False)
def naive_point(model: VGG, kind: Kind, layer: str, level: float, removed: int) -> VGG:
    """(a): the pruned network itself."""
    pruned = copy.deepcopy(model)
    if kind == "structured":
        width = pruned.spec.prunable[layer]
        remove_channels(pruned, pruned.spec.with_widths({layer: width - removed}))
    else:
        mask_layers(pruned, Plan.of({layer: level}, "level"))
        remove_masks(pruned)
    return pruned.eval()


def whole_chain(
    model: VGG, steps: list[FusedLayer], kind: Kind, layer: str, level: float, removed: int
) -> Chain:
    """(b): the same network as a chain of the engine's steps."""
    if kind == "unstructured":
        return Chain.of(fused_layers_of(naive_point(model, kind, layer, level, removed), 32))
    place = next(i for i, step in enumerate(steps) if step.name == layer)
    step, after = steps[place], steps[place + 1]
    count = len(step.weight) - removed
    narrowed = [
        replace(step, weight=step.weight[:count], bias=step.bias[:count]),
        replace(after, weight=after.weight[:, :count].contiguous()),
    ]
    return Chain.of([*steps[:place], *narrowed, *steps[place + 2 :]])


@torch.inference_mode()
def chain_correct(
    chain: Chain, split: Split, normalisation: Normalisation, buffers: Buffers
) -> int:
    hits = 0
    for images, labels in split.blocks(BLOCK):
        x = normalisation(images).permute(0, 2, 3, 1).contiguous()
        hits += int((chain.logits(x, 0, buffers).argmax(1) == labels).sum())
    return hits


class Turns:
    """Stands in for the engine's journal: whenever a layer is done, the other sides do the same layer."""

    def __init__(self, model: VGG, split: Split, asked: ResolvedSweep) -> None:
        self.entries: list[dict[str, Any]] = []
        self.seconds: dict[str, dict[str, float]] = {}
        self.differences: dict[str, list[int]] = {"naive": [], "whole": []}
        self._model, self._split, self._asked = model, split, asked
        self._normalisation = Normalisation.of(model.meta)
        self._device = split.labels.device
        images = self._normalisation(split.images).contiguous()
        self._loader = DataLoader(TensorDataset(images.cpu(), split.labels.cpu()), 128)
        self._buffers = Buffers()
        steps = fused_layers_of(model, split.images.shape[-1])
        scores = rank(model, list(asked.removed))
        orders = {
            name: score.argsort(descending=True, stable=True) for name, score in scores.items()
        }
        self._steps = with_channels_in_order(steps, orders)
        self.start = now(self._device)

    def append(self, *entries: dict[str, Any]) -> None:
        engine = now(self._device) - self.start
        name = entries[0]["layer"]
        assert entries[0]["n"] == len(self._split), "the images must be in memory at once"
        seconds = {"engine": engine, "naive": 0.0, "whole": 0.0}
        for entry, removed in zip(entries, self._asked.removed.get(name, ()), strict=False):
            point = (self._asked.kind, name, entry["ratio"], removed)
            found = int(unpack_hits(entry["hits"], entry["n"]).sum())
            start = now(self._device)
            naive = naive_correct(naive_point(self._model, *point), self._loader, self._device)
            between = now(self._device)
            chain = whole_chain(self._model, self._steps, *point)
            whole = chain_correct(chain, self._split, self._normalisation, self._buffers)
            seconds["naive"] += between - start
            seconds["whole"] += now(self._device) - between
            self.differences["naive"].append(abs(found - naive))
            self.differences["whole"].append(abs(found - whole))
        self.seconds[name or "the rest of the dense pass"] = seconds
        self.start = now(self._device)


@torch.inference_mode()
def kernel_times(model: VGG, split: Split, trials: int) -> Iterator[list[str]]:
    """Where the time goes: each step of the dense network alone, in microseconds an image, by the engine's kernel and by conv2d."""
    chain, buffers = Chain.of(fused_layers_of(model, split.images.shape[-1])), Buffers()
    x = Normalisation.of(model.meta)(split.images[:BLOCK]).permute(0, 2, 3, 1).contiguous()
    for place, step in enumerate(chain.steps):
        sides: dict[str, Callable[[], object]] = {
            "engine": lambda place=place, x=x: chain.roll(x, place, buffers)
        }  # type: ignore[misc]
        if step.weight.ndim == 4:
            sides["channels_last"] = _direct(step, x, buffers)
            contiguous = x.permute(0, 3, 1, 2).contiguous()
            sides["contiguous"] = lambda step=step, c=contiguous: torch.conv2d(
                c, step.weight, step.bias, padding=1
            )  # type: ignore[misc]
        times: dict[str, list[float]] = {side: [] for side in sides}
        for trial in range(trials + 1):
            for side in list(sides) if trial % 2 else reversed(sides):
                start = now(x.device)
                sides[side]()
                times[side].append(now(x.device) - start)
        medians = [f"{statistics.median(taken[1:]) / len(x) * 1e6:.0f}" for taken in times.values()]
        yield [
            step.name,
            str(step.side),
            type(chain.kernels[place]).__name__,
            *medians,
            *["-"] * (3 - len(medians)),
        ]
        x = chain.roll(x, place)


def _direct(step: FusedLayer, x: torch.Tensor, buffers: Buffers) -> Callable[[], None]:
    kernel = Direct()
    weight, out = kernel.prepare(step.weight), buffers.take("direct", x, step.output_shape)
    return lambda: kernel.run_weights(step, x, [weight], [out])


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
    help="Of the test split.",
)
@click.option(
    "--kind",
    "kinds",
    type=click.Choice(["structured", "unstructured"]),
    multiple=True,
    help="Both.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=7,
    show_default=True,
    help="Of each kernel alone.",
)
def main(
    checkpoint: Path,
    dataset: str,
    data_dir: Path,
    images: int,
    kinds: tuple[Kind, ...],
    device: str,
    trials: int,
) -> None:
    """Print seconds by layer, both ratios, the largest difference in correct-count, and the time of each kernel."""
    place = pick_device(device)
    model = load(checkpoint).eval().to(place)
    split = load_data(dataset, data_dir, place, limits=(1, 1, images)).test
    report: dict[str, Any] = {
        "images": len(split),
        "levels": LEVELS,
        "environment": environment(place),
    }
    for kind in kinds or ("structured", "unstructured"):
        asked = ResolvedSweep.of(SweepQuestion(kind), model)
        turns = Turns(model, split, asked)
        with exact_fp32():
            run(model, split, asked, "", turns)  # type: ignore[arg-type]
        totals = {
            side: sum(layer[side] for layer in turns.seconds.values())
            for side in ("engine", "naive", "whole")
        }
        worst = {side: max(found) for side, found in turns.differences.items()}
        rows = [
            [name, *(f"{layer[side]:.1f}" for side in totals), *(f"{layer[side] / layer['engine']:.2f}" for side in ("naive", "whole"))]
            for name, layer in (*turns.seconds.items(), ("all", totals))
        ]  # fmt: skip
        click.echo(
            f"\n{kind}, {asked.precision}, {len(split)} images, {len(LEVELS)} levels; seconds"
        )
        click.echo(
            text_table(
                ["layer", "engine", "(a) naive", "(b) no prefix", "(a) ÷ engine", "(b) ÷ engine"],
                rows,
            )
        )
        click.echo(
            f"largest difference in correct-count: {worst['naive']} to (a), {worst['whole']} to (b)"
        )
        report[kind] = {
            "precision": asked.precision, "seconds": turns.seconds, "naive_ratio": totals["naive"] / totals["engine"],
            "whole_ratio": totals["whole"] / totals["engine"], "differences": turns.differences,
        }  # fmt: skip
    table = list(kernel_times(model, split, trials))
    click.echo("\neach step of the dense network alone, microseconds an image")
    click.echo(
        text_table(
            ["step", "side", "kernel", "engine", "conv2d channels_last", "conv2d contiguous"], table
        )
    )
    click.echo(json.dumps({**report, "steps": table}), err=True)


if __name__ == "__main__":
    main()
