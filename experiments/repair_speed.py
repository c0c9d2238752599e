"""This script times the repair of pruned networks beside the training that it spares.

Both take turns. In each turn a pruned copy of the checkpoint is repaired, and another one is
fine-tuned on some batches, from which the time of an epoch follows.
"""

from __future__ import annotations

import copy
import json
import statistics
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from sweep_sides import now

from tp_vgg.data.datasets import DataSet, load_data
from tp_vgg.evaluation.evaluate import accuracy
from tp_vgg.machine.device import pick_device
from tp_vgg.machine.environment import environment
from tp_vgg.machine.memory import PeakMemory
from tp_vgg.network.checkpoint import load
from tp_vgg.network.families import build_network
from tp_vgg.network.network import Network
from tp_vgg.network.spec import conv_names
from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.pruning.repair import repair
from tp_vgg.pruning.structured import prune_structured
from tp_vgg.pruning.unstructured import prune_unstructured
from tp_vgg.report.text_table import text_table
from tp_vgg.training.finetune import finetune

BATCH = 128
"""Images of a batch of fine-tuning."""


def pruned(dense: Network, case: str) -> Network:
    """Return a copy of ``dense`` pruned by a case such as ``channels=0.5`` or ``zeros=0.95``."""
    kind, _, text = case.partition("=")
    model, value = copy.deepcopy(dense), float(text)
    if kind == "channels":
        prune_structured(model, dict.fromkeys(conv_names(model.spec), value))
    elif kind == "zeros":
        prune_unstructured(model, value, scope="global")
    else:
        raise click.UsageError(f"--case {case}: must be channels=RATIO or zeros=SPARSITY")
    return model


def measure(
    dense: Network, data: DataSet, case: str, images: int, trials: int, batches: int
) -> dict[str, Any]:
    """Return the seconds of both sides in each trial, the peak memory and the accuracies."""
    device = data.train.labels.device
    few = data.train.take(np.arange(min(batches * BATCH, len(data.train))))
    as_removed = pruned(dense, case)
    repaired = as_removed
    seconds: dict[str, list[float]] = {"repair": [], "epoch": []}
    peak = 0

    def repair_side() -> None:
        nonlocal repaired, peak
        repaired = copy.deepcopy(as_removed)
        memory = PeakMemory(device)
        start = now(device)
        repair(repaired, dense, data.train, limit=images, flip=data.flip)
        seconds["repair"].append(now(device) - start)
        peak = max(peak, memory.bytes())

    def epoch_side() -> None:
        trained = copy.deepcopy(as_removed)
        start = now(device)
        finetune(trained, few, epochs=1, batch_size=BATCH)
        seconds["epoch"].append((now(device) - start) * len(data.train) / len(few))

    for trial in range(trials):
        for side in (repair_side, epoch_side) if trial % 2 else (epoch_side, repair_side):
            side()
    pairs = zip(seconds["repair"], seconds["epoch"], strict=True)
    return {
        "seconds": seconds,
        "ratio": statistics.median(own / epoch for own, epoch in pairs),
        "peak_bytes": peak,
        "dense": accuracy(dense, data.test).accuracy,
        "removed": accuracy(as_removed, data.test).accuracy,
        "repaired": accuracy(repaired, data.test).accuracy,
    }


@click.command()
@click.option("--checkpoint", type=click.Path(path_type=Path), help="The dense network.")
@click.option(
    "--head",
    type=click.Choice(["linear", "torchvision"]),
    default="linear",
    show_default=True,
    help="Head of an untrained VGG-11 with batch norm, without --checkpoint.",
)
@click.option("--dataset", default="folder", show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path), default=Path("data"))
@click.option("--images", type=click.IntRange(min=2), default=1000, show_default=True)
@click.option("--limit-train", type=click.IntRange(min=2), help="Training images of an epoch.")
@click.option("--limit-test", type=click.IntRange(min=1), help="Images of the accuracies.")
@click.option(
    "--case",
    "cases",
    multiple=True,
    default=("channels=0.3", "channels=0.5", "zeros=0.9", "zeros=0.95"),
    show_default=True,
    help="Channels of every conv, or weights of all layers ranked together; may repeat.",
)
@click.option("--trials", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--batches",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Batches of 128 images of fine-tuning in each trial.",
)
@click.option("--device", default="auto", show_default=True)
def main(
    checkpoint: Path | None,
    head: str,
    dataset: str,
    data_dir: Path,
    images: int,
    limit_train: int | None,
    limit_test: int | None,
    cases: tuple[str, ...],
    trials: int,
    batches: int,
    device: str,
) -> None:
    """Print seconds, peak memory and test accuracies of each case.

    Beside them is the median ratio of the repair's time to that of an epoch of fine-tuning. The
    report as JSON goes to stderr.
    """
    place = pick_device(device)
    data = load_data(dataset, data_dir, place, limits=(limit_train, 1, limit_test))
    dense = load(checkpoint) if checkpoint else build_network(VGGSpec.preset("vgg11_bn", head))
    dense.eval().to(place)
    report = {case: measure(dense, data, case, images, trials, batches) for case in cases}
    rows = [
        [
            case,
            f"{statistics.median(found['seconds']['repair']):.1f}",
            f"{statistics.median(found['seconds']['epoch']):.1f}",
            f"{found['ratio']:.3f}",
            f"{found['peak_bytes'] / 1e9:.2f}",
            *(f"{found[name]:.2f}" for name in ("dense", "removed", "repaired")),
        ]
        for case, found in report.items()
    ]
    header = [
        "case",
        "repair s",
        "epoch s",
        "ratio",
        "peak GB",
        "dense %",
        "removed %",
        "repaired %",
    ]
    click.echo(text_table(header, rows))
    facts = {"images": images, "trials": trials, "threads": torch.get_num_threads()}
    facts |= {"train": len(data.train), "test": len(data.test), "environment": environment(place)}
    click.echo(json.dumps({**facts, **report}), err=True)


if __name__ == "__main__":
    main()
