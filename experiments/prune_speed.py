"""Time to shrink VGG-11 by half in every conv, graph included: tp_vgg beside stock torch-pruning.

Each side shrinks the same kind of fresh network to the same widths, turn about. ``tp_vgg`` builds the graph, ranks,
removes and checks the widths, which is the work of the stock ``tp.pruner.BasePruner``; ``tp_vgg with proof`` is what
the command does: the same and the equivalence proof in fp64.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import click
import torch
import torch_pruning as tp

from tp_vgg.machine.environment import environment
from tp_vgg.network.network import realised_spec
from tp_vgg.network.vgg.model import VGG, build
from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.pruning.ratios import Plan, resolve
from tp_vgg.pruning.structured import prune_channels, remove_channels
from tp_vgg.report.text_table import text_table


def ours_with_proof(model: VGG, target: VGGSpec, images: torch.Tensor) -> None:
    prune_channels(model, target, images)


def ours(model: VGG, target: VGGSpec, _images: torch.Tensor) -> None:
    remove_channels(model, target)


def stock(model: VGG, target: VGGSpec, images: torch.Tensor) -> None:
    """The same widths from the stock pruner: k removals of n are asked for as (k − 0.5) / n."""
    wanted = target.prunable
    ratios = {
        model.get_submodule(name): (width - wanted[name] - 0.5) / width
        for name, width in model.spec.prunable.items()
        if wanted[name] < width
    }
    others = [model.get_submodule(name) for name in model.spec.linear_names]
    importance = tp.importance.MagnitudeImportance(p=1, group_reduction="first", normalizer=None)
    pruner = tp.pruner.BasePruner(
        model,
        images[:1],
        importance,
        pruning_ratio_dict=ratios,
        pruning_ratio=0.0,
        ignored_layers=others,
    )
    pruner.step()


SIDES: dict[str, Callable[[VGG, VGGSpec, torch.Tensor], None]] = {
    "tp_vgg": ours,
    "tp_vgg with proof": ours_with_proof,
    "stock BasePruner": stock,
}


@click.command()
@click.option("--trials", type=click.IntRange(min=1), default=7, show_default=True)
@click.option("--ratio", type=click.FloatRange(0, 1, max_open=True), default=0.5, show_default=True)
def main(trials: int, ratio: float) -> None:
    """Print the median seconds of each side, and the median of the paired ratios to stock."""
    images = torch.randn(16, 3, 32, 32)
    rows, report = [], {}
    for head, pool in (("linear", 1), ("folded", 1), ("unfolded", 7)):
        spec = VGGSpec.preset(
            "vgg11_bn", "linear" if head == "linear" else "torchvision", pool=pool
        )
        target = resolve(Plan.uniform(ratio, spec.conv_names, "--ratio"), spec)
        seconds: dict[str, list[float]] = {name: [] for name in SIDES}
        for trial in range(trials + 1):
            for name in list(SIDES) if trial % 2 else reversed(SIDES):
                model = build(spec).eval()
                start = time.perf_counter()
                SIDES[name](model, target, images)
                seconds[name].append(time.perf_counter() - start)
                assert realised_spec(model) == target, name
        for name, times in seconds.items():
            pairs = [
                mine / theirs
                for mine, theirs in zip(times[1:], seconds["stock BasePruner"][1:], strict=True)
            ]
            rows.append(
                [
                    head,
                    name,
                    f"{statistics.median(times[1:]):.3f}",
                    f"{statistics.median(pairs):.2f}",
                ]
            )
            report[f"{head}/{name}"] = {
                "seconds": times[1:],
                "median_ratio_to_stock": statistics.median(pairs),
            }
    click.echo(text_table(["head", "side", "median s", "ratio to stock"], rows))
    click.echo(
        json.dumps(
            {"n": trials, "ratio": ratio, "environment": environment(torch.device("cpu")), **report}
        ),
        err=True,
    )


if __name__ == "__main__":
    main()
