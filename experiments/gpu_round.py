"""One command on a machine with a GPU: tests, latency, sweeps, training and profile, in that order.

Each step has a time box and a process of its own, and each result is on the disk at once, so that a round that is cut
keeps what it had. In OUT: results.jsonl (a line a result), summary.txt (a line a step), logs.txt (what each step
printed), files.tar.gz (records, tables and figures of the run directories), dense.pth.0, .1, ... (the dense model
trained here, in pieces). `--render` makes the tables of docs/gpu.md from results.jsonl; `--prepare` gathers what a bare
machine needs.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = next(
    (place for place in HERE.parents if (place / "tp_vgg" / "__init__.py").is_file()), HERE.parent
)
sys.path[:0] = [*map(str, (HERE / "wheels").glob("click-*.whl")), str(HERE), str(ROOT)]

import click  # noqa: E402  a wheel beside this file comes before a click that may be too old
from gpu import parts, training  # noqa: E402
from gpu.prepare import commit_of, prepare  # noqa: E402
from gpu.render import render  # noqa: E402
from gpu.runner import Round  # noqa: E402
from gpu.setting import ARCHIVE, CHECKPOINT, PARTS, Setting, read_results  # noqa: E402

from tp_vgg import cli  # noqa: E402
from tp_vgg.cli.options import Number  # noqa: E402
from tp_vgg.errors import BadInput, WorkFailed  # noqa: E402

TINY_MINUTES = 60.0
DENSE_BOX = 300.0
"""Seconds to download CIFAR-10 and train the dense model, where neither is given."""
UNUSABLE = 1
"""Exit status of a step that could not begin its work; one whose work failed in part exits otherwise."""
DO: dict[str, Callable[[Round], None]] = {
    "tests": parts.tests,
    "latency": parts.latency,
    "sweeps": parts.sweeps,
    "training": training.training,
    "profile": parts.profile,
}


def find_data(named: Path | None) -> Path | None:
    """The folder with images and checkpoint: the named one, or else the kit's own, or a shared one."""
    places = (
        [named]
        if named
        else [HERE / "data", ROOT.parent / "shared" / "data", ROOT / "shared" / "data"]
    )
    return next((p for p in places if (p / ARCHIVE).is_file() and (p / CHECKPOINT).is_file()), None)


def run_round(r: Round) -> None:
    """Prepare, then do the parts that are wanted, one after the other."""
    parts.unpack_wheels(r)
    jobs = {"data": prepare_data, "compiler": warm_compiler}
    if r.setting.tiny or not r.wants("latency"):
        del jobs["compiler"]
    if r.module("facts", parts.box(r, 60)) == UNUSABLE:
        r.end = time.time()  # no device, or no package: nothing else can work
    if r.setting.needs_dense:
        training.train_dense(r, 0, DENSE_BOX)
    beside = [threading.Thread(target=guarded, args=(r, name, do)) for name, do in jobs.items()]
    for thread in beside:
        thread.start()
        if r.setting.tiny:
            thread.join()
    for name in filter(r.wants, PARTS):
        if name != "tests":  # all that is timed has the device to itself
            for thread in beside:
                thread.join()
        r.line(f"--- {name}, {max(r.left(), 0):.0f} s left")
        guarded(r, name, DO[name])
        r.pack()
    for thread in beside:
        thread.join()
    r.line(
        f"{r.ended} steps, {len(r.failed)} failed{', cut short' if r.cut else ''}; {max(r.left(), 0):.0f} s left"
    )


def guarded(r: Round, name: str, do: Callable[[Round], object]) -> None:
    """Do a part; if it fails, say so and go on, so that nothing of the others is lost."""
    try:
        do(r)
    except Exception as error:  # noqa: BLE001
        r.failed.append(name)
        r.line(f"{name}: failed: {type(error).__name__}: {error}")


def warm_compiler(r: Round) -> None:
    """Compile beside the tests what the latency table will, so that its caches are on the disk."""
    r.module("latency", 100, "warm")


def prepare_data(r: Round) -> None:
    """Decode the images; train the dense models if training is wanted."""
    parts.prepare_images(r)
    if r.wants("training"):
        training.dense_models(r)


def start_round(setting: Setting, minutes: float, only: tuple[str, ...]) -> None:
    """Run a round to its end or to a signal. Raises :class:`WorkFailed` where a step failed, after all others."""
    r = Round(setting, HERE, time.time() + 60 * minutes, only)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, r.cut_short)
    version = sys.version.split()[0]
    r.line(
        f"{setting.device}, {minutes:g} minutes, Python {version}, work in {r.work}, results in {r.out}"
    )
    commit = commit_of(ROOT, HERE)
    r.record(
        "round", device=setting.device, tiny=setting.tiny, minutes=minutes, only=only, commit=commit
    )
    if setting.needs_dense:
        r.line(
            "CIFAR-10 is downloaded and the dense model trained here first, in at most 5 of the minutes"
        )
    run_round(r)
    if r.cut:
        raise KeyboardInterrupt(f"what was done lies in {r.out}")
    if r.failed:
        raise WorkFailed(
            f"{len(r.failed)} of {r.ended} steps failed: {', '.join(r.failed)}; the rest lies in {r.out}"
        )


def check_device(name: str, tiny: bool) -> str:
    """The device to measure. Raises :class:`BadInput` for one that this machine lacks, and for a CPU where figures are wanted."""
    from tp_vgg.machine.device import pick_device

    if pick_device(name).type != "cuda" and not tiny:
        raise BadInput(f"--device: {name!r} is no GPU; give cuda, or --tiny for a dry run")
    return name


def check_parts(only: str) -> tuple[str, ...]:
    """The parts asked for. Raises :class:`BadInput` for one that there is not."""
    names = tuple(filter(None, map(str.strip, only.split(","))))
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise BadInput(f"--only: {unknown[0]!r} is not one of {', '.join(PARTS)}")
    return names


@click.command()
@click.option(
    "--minutes",
    type=Number(min=0.1, max=1440),
    help="When it ends, whatever is left (9; a dry run 60).",
)
@click.option("--only", default="", metavar="NAME,NAME,…", help=f"Parts: {','.join(PARTS)} (all).")
@click.option(
    "--tiny",
    is_flag=True,
    help="Dry run of every part with little work, on the CPU unless --device says otherwise.",
)
@click.option("--device", help="cuda, or cpu with --tiny.")
@click.option(
    "--work",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where it works (in the temporary directory).",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="OUT",
    show_envvar=True,
    help="Where results go (WORK/out).",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help=f"The folder with {ARCHIVE} and {CHECKPOINT} (one beside the checkout; else CIFAR-10 is downloaded and the"
    " dense model trained first).",
)
@click.option(
    "--prepare",
    "kit",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Only put what a GPU machine needs into DIR, inside the checkout.",
)
@click.option("--python", default="3.12", show_default=True, help="That machine's, with --prepare.")
@click.option(
    "--render",
    "results",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Only print the tables of a results.jsonl; may be repeated.",
)
@click.argument(
    "more",
    nargs=-1,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="[FILE]...",
)
def main(
    minutes: float | None, only: str, tiny: bool, device: str | None, work: Path | None, out: Path | None, data: Path | None,
    kit: Path | None, python: str, results: tuple[Path, ...], more: tuple[Path, ...],
) -> None:  # fmt: skip
    """Measure everything on this machine's GPU, the most wanted first.

    \b
    Example: python experiments/gpu_round.py --minutes 9 --out results
             python experiments/gpu_round.py --render results/results.jsonl
    """
    wanted = check_parts(only)
    if more and not results:
        raise BadInput(f"{more[0]}: files are given with --render")
    if results:
        for path in (*results, *more):
            if next(read_results([path]), None) is None:
                raise BadInput(f"{path}: holds no results of a round; give a results.jsonl")
        click.echo(render(list(read_results([*results, *more]))))
        return
    folder = find_data(data)
    if folder is None and data is not None and not tiny:
        raise BadInput(
            f"--data: no folder with {ARCHIVE} and {CHECKPOINT} was found; name one, or leave --data out"
        )
    if kit is not None:
        if folder is None:
            raise BadInput(
                f"--prepare: {ARCHIVE} and {CHECKPOINT} are needed; name their folder by --data"
            )
        prepare(kit, ROOT, Path(__file__).resolve(), folder, python, click.echo)
        return
    device = check_device(device or ("cpu" if tiny else "cuda"), tiny)
    work = (
        work or Path(tempfile.gettempdir()) / ("gpu-round-tiny" if tiny else "gpu-round")
    ).resolve()
    out = (out or work / "out").resolve()
    for place in (work / "runs", out):
        place.mkdir(parents=True, exist_ok=True)
    images = str(folder.resolve()) if folder else None
    setting = Setting(str(ROOT), str(work), str(out), device, tiny, images)
    start_round(setting, minutes or (TINY_MINUTES if tiny else 9.0), wanted)


if __name__ == "__main__":
    sys.exit(cli.execute(command=main, name=Path(__file__).name))
