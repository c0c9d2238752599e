"""The `benchmark` command times models on this device."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from tp_vgg.cli.arguments import check_file, listed
from tp_vgg.cli.command import Command, option
from tp_vgg.cli.options import common_options, tensorboard_option, wide_option
from tp_vgg.cli.value_types import MOST_THREADS, PATH, WholeNumber
from tp_vgg.errors import BadInput
from tp_vgg.latency.table import BATCH_SIZES, DTYPES, FEWEST_TRIALS, MODES, cases_of
from tp_vgg.report.latency_tables import render_benchmark, render_profile
from tp_vgg.rundir.settings import Settings
from tp_vgg.stages.options import BenchmarkOptions


@click.command("benchmark", cls=Command)
@common_options
@click.argument("checkpoints", nargs=-1, type=PATH)
@option(
    "--batch-sizes",
    metavar="N,N,…",
    show_default="1,64, on a GPU 1,64,1024; with --profile 64",
    help="Images per forward pass.",
)
@option(
    "--modes", metavar="NAME,NAME,…", show_default=",".join(MODES), help="How networks are run."
)
@option(
    "--dtypes",
    metavar="NAME,NAME,…",
    show_default="fp32,bf16; with --profile fp32",
    help=f"Arithmetic: {', '.join(DTYPES)}.",
)
@option(
    "--trials",
    type=WholeNumber(min=FEWEST_TRIALS),
    metavar="N",
    show_default="17, or 9 if they take long; with --profile 5",
    help="Blocks per case. 9, 17 and 25 make the best 95 % intervals.",
)
@option(
    "--threads",
    type=WholeNumber(1, MOST_THREADS),
    metavar="N",
    show_default="torch's",
    help="Threads on the CPU.",
)
@option(
    "--hot",
    "reuse_input",
    is_flag=True,
    help="Time with one input that stays in the cache, instead of inputs that rotate.",
)
@option(
    "--probes/--no-probes",
    default=True,
    help="If a speed-up falls short, time slightly smaller widths to find the cause.",
)
@option(
    "--runtime",
    type=click.Choice(["onnxruntime"]),
    show_default="none",
    help="Time the networks in this runtime too.",
)
@option(
    "--profile",
    "profiling",
    is_flag=True,
    help="Instead, time each conv over a grid of widths, for `plan --budget latency=`.",
)
@tensorboard_option
@wide_option
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
    width: int | None,
) -> None:
    """Time the models on this device and explain the speed-ups; run it after pruning.

    Times the dense model, a copy of it (the A/A control) and the pruned models in turns. A
    speed-up is the median of paired ratios, with a 95 % bootstrap interval. CHECKPOINTS replace
    the run directory's pruned models.

    Modes: eager; folded (batch norm folded, channels_last); graph (a CUDA graph of eager); compile
    (torch.compile for the shape); folded-graph (a CUDA graph of folded). If the device lacks one,
    its row says so. fp32 is never TF32; tf32 is a dtype of its own.

    \b
    Example: python -m tp_vgg benchmark --dataset digits --modes eager,folded
    """
    for path in checkpoints:
        check_file("CHECKPOINT", path)
    if profiling and (checkpoints or runtime or modes is not None or reuse_input or not probes):
        raise BadInput(
            "--profile: it times single convs, folded; leave out --modes, --runtime, --hot and "
            "--no-probes, and give the network by --checkpoint"
        )
    chosen = ("folded",) if profiling else MODES if modes is None else listed(modes)
    sizes = _sizes(batch_sizes) if batch_sizes is not None else (64,) if profiling else None
    types = listed(dtypes) if dtypes is not None else ("fp32",) if profiling else ("fp32", "bf16")
    cases = partial(cases_of, (*chosen, *([runtime] if runtime else [])), types)
    # Unknown modes and dtypes are refused here, before torch is loaded to pick the device.
    options = BenchmarkOptions(
        cases(sizes or BATCH_SIZES["cpu"]), trials, threads, reuse_input, probes
    )

    from tp_vgg.machine.device import pick_device
    from tp_vgg.stages.benchmark import benchmark
    from tp_vgg.stages.profile import profile

    if sizes is None:
        options = replace(options, cases=cases(BATCH_SIZES[pick_device(settings.device).type]))
    if profiling:
        click.echo(
            "\n\n".join(render_profile(table, width=width) for table in profile(settings, options))
        )
    else:
        click.echo(render_benchmark(benchmark(settings, options, checkpoints), width=width))


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise BadInput(
            f"--batch-sizes: {text[:80]!a}: give whole numbers with commas between, such as 1,64"
        ) from None
