"""This script times `python -m tp_vgg plan`, with interpreter and imports, for several budgets.

The networks are VGG-11 and VGG-19. The sweeps are made up: drops that rise with noise, drawn anew
in each trial. So curves of many shapes are planned, and no network need be trained.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from tp_vgg.evaluation.accuracy import Accuracy
from tp_vgg.files.atomic import write_json
from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.pruning.ratios import removals
from tp_vgg.report.text_table import text_table
from tp_vgg.sensitivity.table import LEVELS, Point, Sensitivity

BUDGETS = ("macs=0.5", "macs=0.25", "params=0.3", "macs=0.5 params=0.4", "drop=1")
N = 5000
"""Images of a made-up sweep."""
ABOUT = {"weights": "made up", "data": {"split": "val"}}
"""Fields of a sweep's record that are not in its table."""


def sweep(spec: VGGSpec, rng: np.random.Generator) -> Sensitivity:
    """Return a made-up sweep of all layers.

    Each layer's drop is a height times a power of the ratio, with noise. Height and exponent are
    drawn for each layer.
    """
    dense = round(0.9 * N)
    points = []
    for layer, counts in removals("structured", spec, LEVELS).items():
        height, power = rng.uniform(0.1, 0.8), rng.uniform(1.5, 4)
        for level, removed in zip(LEVELS, counts, strict=True):
            correct = int(np.clip(dense - N * height * level**power + rng.normal(0, 10), 0, N))
            accuracy = Accuracy.of(correct, N)
            drop = 100 * (dense - correct) / N
            points.append(
                Point(
                    layer,
                    level,
                    removed,
                    correct,
                    N,
                    accuracy.accuracy,
                    accuracy.low,
                    accuracy.high,
                    drop,
                    drop,
                    drop,
                    0,
                )
            )
    return Sensitivity(
        "made up", "structured", "l1", "fp32", spec.to_dict(), Accuracy.of(dense, N), tuple(points)
    )


@click.command()
@click.option("--trials", type=click.IntRange(min=1), default=5, show_default=True)
def main(trials: int) -> None:
    """Print the median and largest seconds of a plan, and its largest gap to the best plan.

    There is one row per network and budget. The report as JSON goes to stderr.
    """
    rows, report = [], {}
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        for arch in ("vgg11_bn", "vgg19_bn"):
            for budget in BUDGETS:
                seconds, gaps = [], []
                for _ in range(trials):
                    record = {**sweep(VGGSpec.preset(arch, "linear"), rng).to_dict(), **ABOUT}
                    write_json(Path(place, "records", "structured_sensitivity.json"), record)
                    options = [part for name in budget.split() for part in ("--budget", name)]
                    command = [
                        sys.executable,
                        "-m",
                        "tp_vgg",
                        "plan",
                        "--out",
                        place,
                        "--force",
                        "-q",
                        *options,
                    ]
                    start = time.perf_counter()
                    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                    seconds.append(time.perf_counter() - start)
                    gaps.append(json.loads(Path(place, "plan.json").read_text())["gap"])
                rows.append(
                    [
                        arch,
                        budget,
                        f"{statistics.median(seconds):.2f}",
                        f"{max(seconds):.2f}",
                        f"{max(gaps):.2g}",
                    ]
                )
                report[f"{arch} {budget}"] = {"seconds": seconds, "gaps": gaps}
    click.echo(text_table(["", "budget", "median s", "largest s", "largest gap"], rows))
    versions = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
    }
    click.echo(json.dumps({"n": trials, "environment": versions, **report}), err=True)


if __name__ == "__main__":
    main()
