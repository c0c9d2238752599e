from __future__ import annotations

from pathlib import Path

import click

from tp_vgg.cli.options import COUNT, PATH, check_file, common_options, listed, tensorboard_option
from tp_vgg.errors import BadInput
from tp_vgg.latency.table import BATCH_SIZES, DTYPES, FEWEST_TRIALS, MODES, cases_of
from tp_vgg.report.tables import render_benchmark, render_profile
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.options import BenchmarkOptions


@click.command("benchmark")
@common_options
@tensorboard_option
@click.argument("checkpoints", nargs=-1, type=PATH)
@click.option("--batch-sizes", metavar="N,N,…", help="1,64,1024; with --profile 64.")
@click.option("--modes", metavar="NAME,NAME,…", help=f"How it is run ({','.join(MODES)}).")
@click.option(
    "--dtypes",
    metavar="NAME,NAME,…",
    help=f"Of {', '.join(DTYPES)} (fp32,bf16; with --profile fp32).",
)
@click.option(
    "--trials",
    type=click.IntRange(min=FEWEST_TRIALS),
    metavar="N",
    help="Blocks a case (17, or 9 where they take long; of a profile 5). 9, 17 and 25 hold 95 % best.",
)
@click.option("--threads", type=COUNT, metavar="N", help="Of the CPU (torch's default).")
@click.option(
    "--hot",
    "reuse_input",
    is_flag=True,
    help="One input that stays in the cache, instead of ones that rotate.",
)
@click.option(
    "--probes/--no-probes",
    default=True,
    help="Look for widths just below at which kernels step, where a quoted row falls short (probes).",
)
@click.option(
    "--runtime",
    type=click.Choice(["onnxruntime"]),
    help="Time the exported networks in this one too.",
)
@click.option(
    "--profile", "profiling", is_flag=True, help="Time every conv over a grid of widths instead."
)
def command(
    settings: Settings,
    checkpoints: tuple[Path, ...],
    batch_sizes: str | None,
    modes: str | None,
    dtypes: str | None,
    trials: int | None,
    threads: int | None,
    reuse_input: bool,
    probes: bool,
    runtime: str | None,
    profiling: bool,
) -> None:
    """Measure what pruning buys on this device, and say why when it is little.

    Times the dense model, a copy of it (the A/A control) and the pruned ones in turns; speed-ups are medians of paired ratios with a 95 %
    bootstrap interval. CHECKPOINTS: instead of the run directory's pruned models.

    Modes: eager; folded (batch norm folded, channels_last); graph (a CUDA graph of eager, replayed); compile (torch.compile, for the shape);
    folded-graph (a CUDA graph of folded). What the device lacks is a row that says so. fp32 is never TF32 here; tf32 is a dtype of its own.

    \b
    Example: python -m tp_vgg benchmark --dataset digits --batch-sizes 1,64 --modes eager,folded
    """
    for path in checkpoints:
        check_file("CHECKPOINT", path)
    if profiling and (checkpoints or runtime or modes is not None or reuse_input or not probes):
        raise BadInput(
            "--profile: times single convs, folded; leave out --modes, --runtime, --hot and --no-probes, and give the network by --checkpoint"
        )
    chosen = ("folded",) if profiling else MODES if modes is None else listed(modes)
    sizes = _sizes(batch_sizes) if batch_sizes is not None else (64,) if profiling else BATCH_SIZES
    types = listed(dtypes) if dtypes is not None else ("fp32",) if profiling else ("fp32", "bf16")
    cases = cases_of((*chosen, *([runtime] if runtime else [])), types, sizes)
    options = BenchmarkOptions(cases, trials, threads, reuse_input, probes)

    from tp_vgg.stages.benchmark import benchmark
    from tp_vgg.stages.profile import profile

    if profiling:
        click.echo("\n\n".join(render_profile(table) for table in profile(settings, options)))
    else:
        click.echo(render_benchmark(benchmark(settings, options, checkpoints)))


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise BadInput(
            f"--batch-sizes: {text[:80]!a}: give whole numbers with commas between, such as 1,64"
        ) from None
