from __future__ import annotations

import itertools
from pathlib import Path

import click

from tp_vgg.cli.options import COUNT, PATH, check_file, common_options, tensorboard_option
from tp_vgg.errors import BadInput, printable
from tp_vgg.latencies import BATCH_SIZES, DTYPES, FEWEST_TRIALS, MODES, SLOW, Latency, LatencyRow, Staircase, cells_of
from tp_vgg.stages.options import BenchmarkOptions
from tp_vgg.stages.settings import Settings
from tp_vgg.tables import text_table


@click.command("benchmark")
@common_options
@tensorboard_option
@click.argument("checkpoints", nargs=-1, type=PATH)
@click.option("--batch-sizes", metavar="N,N,…", help="1,64,1024; with --profile 64.")
@click.option("--modes", metavar="NAME,NAME,…", help=f"How it is run ({','.join(MODES)}).")
@click.option("--dtypes", metavar="NAME,NAME,…", help=f"Of {', '.join(DTYPES)} (fp32,bf16; with --profile fp32).")
@click.option(
    "--trials",
    type=click.IntRange(min=FEWEST_TRIALS),
    metavar="N",
    help="Blocks a cell (17, or 9 where they take long; of a profile 5). 9, 17 and 25 hold 95 % best.",
)
@click.option("--threads", type=COUNT, metavar="N", help="Of the CPU (torch's default).")
@click.option("--hot", is_flag=True, help="One input that stays in the cache, instead of ones that rotate.")
@click.option(
    "--probes/--no-probes",
    default=True,
    help="Look for widths just below at which kernels step, where a quoted row falls short (probes).",
)
@click.option("--runtime", type=click.Choice(["onnxruntime"]), help="Time the exported networks in this one too.")
@click.option("--profile", "profiling", is_flag=True, help="Time every conv over a grid of widths instead.")
def command(
    settings: Settings,
    checkpoints: tuple[Path, ...],
    batch_sizes: str | None,
    modes: str | None,
    dtypes: str | None,
    trials: int | None,
    threads: int | None,
    hot: bool,
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
    if profiling and (checkpoints or runtime or modes is not None or hot or not probes):
        raise BadInput(
            "--profile: times single convs, folded; leave out --modes, --runtime, --hot and --no-probes, and give the network by --checkpoint"
        )
    chosen = ("folded",) if profiling else MODES if modes is None else _names(modes)
    sizes = _sizes(batch_sizes) if batch_sizes is not None else (64,) if profiling else BATCH_SIZES
    types = _names(dtypes) if dtypes is not None else ("fp32",) if profiling else ("fp32", "bf16")
    cells = cells_of((*chosen, *([runtime] if runtime else [])), types, sizes)
    options = BenchmarkOptions(cells, trials, threads, hot, probes)

    from tp_vgg.stages.benchmark import benchmark, profile

    if profiling:
        click.echo("\n\n".join(render_profile(table) for table in profile(settings, options)))
    else:
        click.echo(render_benchmark(benchmark(settings, options, checkpoints)))


def render_benchmark(found: Latency) -> str:
    """One line a row, and below it the reasons, each once."""
    rows = [_line(row) for row in found.rows if row.speedup is not None or row.model == found.reference]
    header = [
        "model",
        "mode",
        "dtype",
        "batch",
        "ms",
        "IQR",
        "speed-up [95 %]",
        "MACs",
        "efficiency",
        "over eager",
        "peak MB",
        "verdict",
    ]
    where = found.environment["cpu"] if found.environment["device"] == "cpu" else found.environment["device"]
    blocks = sorted({len(row.seconds) for row in found.rows if row.seconds})
    thrown = (
        f"; {found.slow_blocks} blocks thrown away, in which the clock was under {SLOW:.0%} of its default rate"
        if found.slow_blocks
        else ""
    )
    lines = [
        f"{where}, {found.environment['threads']} CPU threads; n = {' or '.join(map(str, blocks))} blocks; {found.reference}'s speed-up is its A/A control{thrown}",
        text_table(header, rows),
    ]
    if found.conditions.get("probes") is False:
        lines.append("steps at slightly smaller widths were not looked for (--no-probes)")
    reasons: dict[str, list[LatencyRow]] = {}
    for row in found.rows:
        for reason in row.reasons if row.speedup else ():
            reasons.setdefault(f"{row.model}: {reason}", []).append(row)
    lines += [f"{reason} ({'; '.join(row.cell.label for row in places)})" for reason, places in reasons.items()]
    twins = {name: about["timed_as"] for name, about in found.models.items() if "timed_as" in about}
    lines += [
        f"{name}: timed as {other}, which has the same widths and no zeros either" for name, other in twins.items()
    ]
    return "\n".join([printable(lines[0]), lines[1], *map(printable, lines[2:])])


def _line(row: LatencyRow) -> list[str]:
    head = [row.model, row.mode, row.dtype, str(row.batch_size)]
    if row.median_ms is None or row.speedup is None:
        return ["(all)", *head[1:], "-", "-", "-", "-", "-", "-", "-", f"{row.verdict}: {row.reasons[0]}"]
    names = ", ".join(dict.fromkeys(reason.partition(":")[0] for reason in row.reasons))
    return [
        *head,
        f"{row.median_ms:.3f}",
        f"{row.iqr_ms:.3f}",
        f"{row.speedup:.3f} [{row.speedup_low:.3f}, {row.speedup_high:.3f}]",
        f"{row.mac_ratio:.2f}×",
        f"{row.efficiency:.2f} [{row.efficiency_low:.2f}, {row.efficiency_high:.2f}]",
        f"{row.over_eager:.2f}",
        f"{row.peak_bytes / 1e6:.1f}" if row.peak_bytes else "-",
        f"{row.verdict}: {names}" if names else row.verdict,
    ]


def render_profile(table: Staircase) -> str:
    """Each conv at full width, at half, and its highest step."""
    rows = []
    whole = sum(table.at_full_input(layer)[-1].median_us for layer in table.layers)
    for layer in table.layers:
        points = table.at_full_input(layer)
        full = points[-1]
        half = min(points, key=lambda point: abs(point.out_width - full.out_width / 2))
        steps = [
            (b.median_us / a.median_us, a, b) for a, b in itertools.pairwise(points) if b.out_width == a.out_width + 1
        ]
        highest = max(steps, key=lambda step: step[0], default=None)
        rows.append(
            [
                layer,
                f"{full.in_width} → {full.out_width}",
                f"{full.median_us:.1f}",
                f"{full.median_us / whole:.1%}",
                f"{half.median_us / full.median_us:.2f} ({half.out_width})",
                f"{highest[0]:.2f} ({highest[1].out_width} → {highest[2].out_width})" if highest else "-",
            ]
        )
    header = [f"{table.dtype}, batch {table.batch_size}", "channels", "µs", "share", "half the width", "highest step"]
    return text_table(header, rows)


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise BadInput(f"--batch-sizes: {text[:80]!a}: give whole numbers with commas between, such as 1,64") from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))
