"""This script times a network against its own copy, and counts how often two methods see a change.

`tp_vgg` is the A/A control of `tp_vgg.measure_latency`. `mean of runs` is the method of
`torch_pruning.utils.benchmark`, with a CPU clock: 50 passes to warm up and the mean of 300, of one
network and then of the other. Its interval is the usual one of a ratio of two means (delta method).
Each run is a process of its own; from run to run the methods take turns in going first.
"""

from __future__ import annotations

import copy
import json
import math
import statistics
import subprocess
import sys
import time

import click
import torch

from tp_vgg.latency.benchmark import measure_latency
from tp_vgg.latency.table import FEWEST_TRIALS
from tp_vgg.machine.environment import environment
from tp_vgg.network.vgg.model import VGG, build
from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.report.text_table import text_table

RatioInterval = tuple[float, float, float]
"""A ratio of times, and the lower and upper end of its 95 % interval."""


def ours(model: VGG, batch: int, mode: str, trials: int | None, device: str) -> RatioInterval:
    """Return the speed-up of a copy of ``model`` as `tp_vgg.measure_latency` measures it."""
    row = measure_latency(
        {"dense": model},
        modes=[mode],
        dtypes=["fp32"],
        batch_sizes=[batch],
        trials=trials,
        device=device,
    ).rows[0]
    assert row.speedup and row.speedup_low and row.speedup_high
    return row.speedup, row.speedup_low, row.speedup_high


@torch.inference_mode()
def mean_of_runs(model: VGG, batch: int, repeat: int, warmup: int, device: str) -> RatioInterval:
    """Return the ratio of the mean times of two copies of ``model``, one timed after the other.

    ``repeat``: timed passes of each copy. ``warmup``: passes before them.
    """
    images = torch.randn(batch, 3, 32, 32).to(device)
    finished = torch.cuda.synchronize if images.is_cuda else lambda: None
    moments = []
    for network in (copy.deepcopy(model).to(device), copy.deepcopy(model).to(device)):
        for _ in range(warmup):
            network(images)
        seconds = []
        for _ in range(repeat):
            finished()
            start = time.perf_counter()
            network(images)
            finished()
            seconds.append(time.perf_counter() - start)
        moments.append((statistics.mean(seconds), statistics.stdev(seconds) / math.sqrt(repeat)))
    (a, error_a), (b, error_b) = moments
    reach = 1.96 * a / b * math.hypot(error_a / a, error_b / b)
    return a / b, a / b - reach, a / b + reach


def one_run(
    seed: int, batch: int, mode: str, trials: int | None, repeat: int, device: str
) -> dict[str, RatioInterval]:
    """Measure one network of random weights against its copy, by both methods.

    ``seed`` draws the weights; if it is odd, tp_vgg goes first. ``repeat``: passes of the other.
    """
    torch.manual_seed(seed)
    model = build(VGGSpec.preset("vgg11_bn", "linear")).eval()
    methods = {
        "tp_vgg": lambda: ours(model, batch, mode, trials, device),
        "mean of runs": lambda: mean_of_runs(model, batch, repeat, repeat // 6, device),
    }
    order = list(methods) if seed % 2 else reversed(methods)
    return {name: methods[name]() for name in order}


@click.command()
@click.option("--runs", type=click.IntRange(min=1), default=40, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--mode", type=click.Choice(["eager", "folded"]), default="eager", show_default=True)
@click.option(
    "--trials",
    type=click.IntRange(min=FEWEST_TRIALS),
    help="Blocks of tp_vgg (17, or 9 if they take long).",
)
@click.option(
    "--repeat",
    type=click.IntRange(min=6),
    default=300,
    show_default=True,
    help="Passes of the other method.",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--run", "only", type=int, hidden=True)
def main(
    runs: int,
    batch_size: int,
    mode: str,
    trials: int | None,
    repeat: int,
    device: str,
    only: int | None,
) -> None:
    """Print in how many runs each method's interval covers 1.00, and the spread of its ratios.

    The report as JSON goes to stderr.
    """
    if only is not None:
        click.echo(json.dumps(one_run(only, batch_size, mode, trials, repeat, device)))
        return
    options = [
        "--batch-size",
        str(batch_size),
        "--mode",
        mode,
        "--repeat",
        str(repeat),
        "--device",
        device,
        *(["--trials", str(trials)] if trials else []),
    ]
    results: list[dict[str, RatioInterval]] = []
    for run in range(runs):
        done = subprocess.run(
            [sys.executable, __file__, "--run", str(run), *options],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        results.append(json.loads(done.stdout.splitlines()[-1]))
        click.echo(f"{run + 1}/{runs}: {results[-1]}", err=True)
    rows = []
    for method in results[0]:
        ratios = [each[method][0] for each in results]
        covered = sum(each[method][1] <= 1 <= each[method][2] for each in results)
        near = sum(abs(ratio - 1) <= 0.03 for ratio in ratios)
        widths = [each[method][2] - each[method][1] for each in results]
        rows.append([
            method, f"{covered} of {runs}", f"{statistics.median(ratios):.4f}", f"{near} of {runs}",
            f"{min(ratios):.3f} to {max(ratios):.3f}", f"{statistics.median(widths):.3f}",
        ])  # fmt: skip
    header = [
        "A/A",
        "interval covers 1.00",
        "median ratio",
        "within ±3 %",
        "ratios",
        "median width of interval",
    ]
    click.echo(f"batch {batch_size}, {mode}, fp32, VGG-11-BN with the linear head, {device}")
    click.echo(text_table(header, rows))
    click.echo(
        json.dumps({"runs": results, "environment": environment(torch.device(device))}), err=True
    )


if __name__ == "__main__":
    main()
