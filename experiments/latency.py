"""This script measures the speed-ups of pruned VGG-11 networks on this device.

The networks are the dense one, those with 30, 50 and 70 % of every conv's channels removed, one
pruned by a plan file, and one with zeros. `tp_vgg.measure_latency` times them in turns, in all
modes of the device. The result is one table, and one JSON with the environment.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import click
import torch

from tp_vgg import cli
from tp_vgg.errors import BadInput
from tp_vgg.latency.benchmark import measure_latency
from tp_vgg.latency.table import FEWEST_TRIALS, MODES, cases_of
from tp_vgg.network.checkpoint import load
from tp_vgg.network.vgg.model import VGG, build
from tp_vgg.network.vgg.spec import VGGSpec
from tp_vgg.pruning.ratios import Plan, read_ratios, resolve
from tp_vgg.pruning.structured import remove_channels
from tp_vgg.pruning.unstructured import prune_unstructured
from tp_vgg.report.latency_tables import render_benchmark


def narrowed(model: VGG, plan: Plan, round_to: int = 1) -> VGG:
    """Return a copy of ``model`` pruned by ``plan``.

    The numbers of kept channels are rounded up to multiples of ``round_to``.
    """
    pruned = copy.deepcopy(model)
    remove_channels(pruned, resolve(plan, pruned.spec, round_to))
    return pruned


@click.command()
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="The dense model (fresh weights, on which time does not depend).",
)
@click.option(
    "--head",
    type=click.Choice(["linear", "torchvision"]),
    default="linear",
    show_default=True,
    help="Head of the network with fresh weights.",
)
@click.option(
    "--ratios", type=click.Path(path_type=Path), help="A plan file whose network is timed too."
)
@click.option(
    "--round-to",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Width multiple for the plan.",
)
@click.option(
    "--sparsity",
    type=float,
    default=0.95,
    show_default=True,
    help="Fraction of zeros in the unstructured model, over all layers.",
)
@click.option("--batch-sizes", default="1,64,1024", show_default=True)
@click.option(
    "--modes", default=",".join(MODES), show_default=True, help="onnxruntime is one more mode."
)
@click.option("--dtypes", default="fp32,tf32,bf16", show_default=True)
@click.option(
    "--probes/--no-probes",
    default=True,
    show_default=True,
    help="Look for slightly smaller widths at which the time drops by a step.",
)
@click.option(
    "--only", help="Names of models to time beside the dense one, with commas between (all)."
)
@click.option(
    "--trials",
    type=click.IntRange(min=FEWEST_TRIALS),
    help="Blocks per case (17, or 9 if they take long).",
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the CPU.")
@click.option("--device", default="auto", show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="File of the JSON (stderr).")
def main(
    checkpoint: Path | None, head: str, ratios: Path | None, round_to: int, sparsity: float,
    batch_sizes: str, modes: str, dtypes: str, probes: bool, only: str | None, trials: int | None,
    threads: int | None, device: str, output: Path | None,
) -> None:  # fmt: skip
    """Print one line per model, mode, dtype and batch size: time, speed-up, MACs and verdict."""
    try:
        sizes = [int(size) for size in batch_sizes.split(",")]
    except ValueError:
        raise BadInput(
            f"--batch-sizes: {batch_sizes!a}: give whole numbers with commas between"
        ) from None
    cases_of(modes.split(","), dtypes.split(","), sizes)
    if output and not output.parent.is_dir():
        raise BadInput(f"--output: {output.parent}: no such directory")
    torch.manual_seed(0)
    dense = load(checkpoint) if checkpoint else build(VGGSpec.preset("vgg11_bn", head)).eval()
    models = {"dense": dense}
    for percent in (30, 50, 70):
        models[f"uniform {percent} %"] = narrowed(
            dense, Plan.uniform(percent / 100, dense.spec.conv_names, "--ratio")
        )
    if ratios:
        models[ratios.name] = narrowed(dense, read_ratios(ratios, "structured"), round_to)
    models[f"{sparsity:.0%} zeros"] = copy.deepcopy(dense)
    prune_unstructured(models[f"{sparsity:.0%} zeros"], sparsity, scope="global")
    if only:
        unknown = set(only.split(",")) - set(models)
        if unknown:
            raise click.UsageError(
                f"--only: {sorted(unknown)[0]!r} is not one of {', '.join(models)}"
            )
        models = {
            name: model for name, model in models.items() if name in ("dense", *only.split(","))
        }
    latency = measure_latency(
        models, modes=modes.split(","), dtypes=dtypes.split(","), batch_sizes=sizes,
        trials=trials, device=device, threads=threads, probes=probes, quiet=False,
    )  # fmt: skip
    click.echo(render_benchmark(latency))
    text = json.dumps(latency.to_dict(), indent=1)
    if output:
        output.write_text(text + "\n")
    else:
        click.echo(text, err=True)


if __name__ == "__main__":
    sys.exit(cli.execute(command=main, name=Path(__file__).name))
