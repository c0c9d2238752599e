"""This script times a sensitivity sweep of every conv by the engine and by two slower methods.

(a) is the notebook's naive loop: for every point a deep copy, a new dependency graph or mask, and
the whole network over a DataLoader of batch 128 in contiguous fp32. (b) runs the engine's kernels
on the whole pruned network for every point, so nothing is reused between points. The sweep after
the repair (`sensitivity --repair reconstruct`) is timed too. All take turns layer by layer on the
same images, and the correct-counts of the engine, (a) and (b) are compared. (a) and (b) may have
fewer images (`--loop-images`); their seconds are then multiplied.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import torch
from sweep_sides import BLOCK, Repaired, Turns, now

from tp_vgg.data.datasets import load_data
from tp_vgg.data.split import Normalisation, Split
from tp_vgg.machine.device import pick_device
from tp_vgg.machine.environment import environment
from tp_vgg.machine.precision import exact_fp32
from tp_vgg.network.checkpoint import load
from tp_vgg.network.vgg.model import VGG
from tp_vgg.pruning.criteria import Kind
from tp_vgg.pruning.repairs import REPAIR_IMAGES
from tp_vgg.report.text_table import text_table
from tp_vgg.sensitivity.chain import Chain, fused_layers_of
from tp_vgg.sensitivity.fused_layer import Buffers, FusedLayer
from tp_vgg.sensitivity.kernels import Direct
from tp_vgg.sensitivity.question import SweepQuestion
from tp_vgg.sensitivity.reconstructed import RepairImages
from tp_vgg.sensitivity.resolved import ResolvedSweep
from tp_vgg.sensitivity.sweep import run
from tp_vgg.sensitivity.table import LEVELS


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
