"""This script times how long tp_vgg and stock torch-pruning take to prune every conv of VGG-11.

Each method prunes a fresh network to the same widths, in turns, and builds its dependency graph.
``tp_vgg`` builds the graph, ranks, removes and checks the widths, which is the work of the stock
``tp.pruner.BasePruner``. ``tp_vgg with check`` does what the command does: the same, and the
equivalence check in fp64.
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


def ours_with_check(model: VGG, target: VGGSpec, images: torch.Tensor) -> None:
    """Prune ``model`` to the widths of ``target`` by tp_vgg, with the equivalence check.

    ``images``: float32 ``[N, 3, H, W]``, on which the check compares logits.
    """
    prune_channels(model, target, images)


def ours(model: VGG, target: VGGSpec, _images: torch.Tensor) -> None:
    """Prune ``model`` to the widths of ``target`` by tp_vgg, without the equivalence check."""
    remove_channels(model, target)


def stock(model: VGG, target: VGGSpec, images: torch.Tensor) -> None:
    """Prune ``model`` to the widths of ``target`` by torch-pruning's ``BasePruner``.

    To have k of n channels removed, the ratio is (k − 0.5) / n, so that rounding cannot change k.
    """
    widths = target.prunable
    ratios = {
        model.get_submodule(name): (width - widths[name] - 0.5) / width
        for name, width in model.spec.prunable.items()
        if widths[name] < width
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


METHODS: dict[str, Callable[[VGG, VGGSpec, torch.Tensor], None]] = {
    "tp_vgg": ours,
    "tp_vgg with proof": ours_with_check,  # the name that earlier results have
    "stock BasePruner": stock,
}


@click.command()
@click.option("--trials", type=click.IntRange(min=1), default=7, show_default=True)
@click.option("--ratio", type=click.FloatRange(0, 1, max_open=True), default=0.5, show_default=True)
def main(trials: int, ratio: float) -> None:
    """Print the median seconds of each method, and the median of its paired ratios to stock.

    The report as JSON goes to stderr.
    """
    images = torch.randn(16, 3, 32, 32)
    rows, report = [], {}
    for head, pool in (("linear", 1), ("folded", 1), ("unfolded", 7)):
        spec = VGGSpec.preset(
            "vgg11_bn", "linear" if head == "linear" else "torchvision", pool=pool
        )
        target = resolve(Plan.uniform(ratio, spec.conv_names, "--ratio"), spec)
        seconds: dict[str, list[float]] = {name: [] for name in METHODS}
        for trial in range(trials + 1):
            for name in list(METHODS) if trial % 2 else reversed(METHODS):
                model = build(spec).eval()
                start = time.perf_counter()
                METHODS[name](model, target, images)
                seconds[name].append(time.perf_counter() - start)
                assert realised_spec(model) == target, name
        for name, times in seconds.items():
            pairs = [
                own / stock_time
                for own, stock_time in zip(times[1:], seconds["stock BasePruner"][1:], strict=True)
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
    click.echo(text_table(["head", "method", "median s", "ratio to stock"], rows))
    click.echo(
        json.dumps(
            {"n": trials, "ratio": ratio, "environment": environment(torch.device("cpu")), **report}
        ),
        err=True,
    )


if __name__ == "__main__":
    main()
