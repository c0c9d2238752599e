"""This script measures everything on a GPU: tests, latency, sweeps, training, profile, repair.

Each step has a time box and a process of its own, and each result is on the disk at once, so a
round that is interrupted keeps its results. They are in OUT: results.jsonl (one line per result),
summary.txt (one line per step), logs.txt (the output of each step), files.tar.gz (records, tables
and figures of the run directories), and dense.pth.0, .1, ... (the dense model trained here, in
pieces). `--render` makes the tables of docs/gpu.md from results.jsonl. `--prepare` gathers the
files that a bare machine needs.
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

import click  # noqa: E402  from a wheel beside this file, if any: the installed one may be too old
from gpu import parts, training  # noqa: E402
from gpu.prepare import commit_of, prepare  # noqa: E402
from gpu.render import render  # noqa: E402
from gpu.runner import Round  # noqa: E402
from gpu.setting import ARCHIVE, CHECKPOINT, PARTS, Setting, read_results  # noqa: E402

from tp_vgg import cli  # noqa: E402
from tp_vgg.cli.value_types import Number  # noqa: E402
from tp_vgg.errors import BadInput, WorkFailed  # noqa: E402

TINY_MINUTES = 60.0
"""Minutes of a dry run."""
DENSE_BOX = 300.0
"""Seconds to download CIFAR-10 and train the dense model, if none is given."""
UNUSABLE = 1
"""Exit status of a step that could not begin its work.

A step whose work failed in part exits with another status."""
DO: dict[str, Callable[[Round], None]] = {
    "tests": parts.tests,
    "latency": parts.latency,
    "sweeps": parts.sweeps,
    "training": training.training,
    "profile": parts.profile,
    "repair": parts.repair,
}
"""The function that does each part."""


def find_data(named: Path | None) -> Path | None:
    """Return the folder with images and checkpoint; ``None`` if there is none.

    It is the named one, or else the kit's own or a shared one.
    """
    places = (
        [named]
        if named
        else [HERE / "data", ROOT.parent / "shared" / "data", ROOT / "shared" / "data"]
    )
    return next((p for p in places if (p / ARCHIVE).is_file() and (p / CHECKPOINT).is_file()), None)


def run_round(r: Round) -> None:
    """Prepare, then do the selected parts, one after the other.

    Images are decoded, models are trained and the compiler is warmed up beside the tests. All that
    is timed has the device to itself.
    """
    parts.unpack_wheels(r)
    jobs = {"data": prepare_data, "compiler": warm_compiler}
    if r.setting.tiny or not r.wants("latency"):
        del jobs["compiler"]
    if r.module("facts", parts.box(r, 60)) == UNUSABLE:
        r.end = time.time()  # without a device or a package, no other step can work
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
        f"{r.ended} steps, {len(r.failed)} failed{', cut short' if r.cut else ''};"
        f" {max(r.left(), 0):.0f} s left"
    )


def guarded(r: Round, name: str, do: Callable[[Round], object]) -> None:
    """Do a part; if it fails, report that and return, so that the other parts still run."""
    try:
        do(r)
    except Exception as error:  # noqa: BLE001
        r.failed.append(name)
        r.line(f"{name}: failed: {type(error).__name__}: {error}")


def warm_compiler(r: Round) -> None:
    """Compile the networks of the latency table, so that its group compile finds them cached."""
    r.module("latency", 100, "warm")


def prepare_data(r: Round) -> None:
    """Decode the images; train the dense models if the part training is selected."""
    parts.prepare_images(r)
    if r.wants("training"):
        training.dense_models(r)


def start_round(setting: Setting, minutes: float, only: tuple[str, ...]) -> None:
    """Run a round to its end or to a signal.

    Raises ``KeyboardInterrupt`` after a signal, and :class:`WorkFailed` at the end if a step
    failed.
    """
    r = Round(setting, HERE, time.time() + 60 * minutes, only)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, r.cut_short)
    version = sys.version.split()[0]
    r.line(
        f"{setting.device}, {minutes:g} minutes, Python {version}, work in {r.work},"
        f" results in {r.out}"
    )
    commit = commit_of(ROOT, HERE)
    r.record(
        "round", device=setting.device, tiny=setting.tiny, minutes=minutes, only=only, commit=commit
    )
    if setting.needs_dense:
        r.line(
            "CIFAR-10 is downloaded and the dense model trained here first,"
            " in at most 5 of the minutes"
        )
    run_round(r)
    if r.cut:
        raise KeyboardInterrupt(f"what was done lies in {r.out}")
    if r.failed:
        raise WorkFailed(
            f"{len(r.failed)} of {r.ended} steps failed: {', '.join(r.failed)};"
            f" the rest lies in {r.out}"
        )


def check_device(name: str, tiny: bool) -> str:
    """Return ``name`` if the round can run on this device.

    Raises :class:`BadInput` if the machine lacks it, and for a CPU unless it is a dry run.
    """
    from tp_vgg.machine.device import pick_device

    if pick_device(name).type != "cuda" and not tiny:
        raise BadInput(f"--device: {name!r} is no GPU; give cuda, or --tiny for a dry run")
    return name


def check_parts(only: str) -> tuple[str, ...]:
    """Return the parts named in ``only``; raise :class:`BadInput` for an unknown one."""
    names = tuple(filter(None, map(str.strip, only.split(","))))
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise BadInput(f"--only: {unknown[0]!r} is not one of {', '.join(PARTS)}")
    return names


@click.command()
@click.option(
    "--minutes",
    type=Number(min=0.1, max=1440),
    help="Minutes until the round ends, finished or not (9; a dry run 60).",
)
@click.option(
    "--only", default="", metavar="NAME,NAME,…", help=f"Parts to do: {','.join(PARTS)} (all)."
)
@click.option(
    "--tiny",
    is_flag=True,
    help="Dry run of every part with little work, on the CPU unless --device says otherwise.",
)
@click.option("--device", help="cuda, or cpu with --tiny.")
@click.option(
    "--work",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory to work in (one in the temporary directory).",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="OUT",
    show_envvar=True,
    help="Directory of the results (WORK/out).",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help=f"The folder with {ARCHIVE} and {CHECKPOINT} (one beside the checkout; without one,"
    " CIFAR-10 is downloaded and the dense model trained first).",
)
@click.option(
    "--prepare",
    "kit",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Only put the files that a GPU machine needs into DIR, inside the checkout.",
)
@click.option(
    "--python",
    default="3.12",
    show_default=True,
    help="Python version of that machine, for --prepare.",
)
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
    minutes: float | None, only: str, tiny: bool, device: str | None, work: Path | None,
    out: Path | None, data: Path | None, kit: Path | None, python: str, results: tuple[Path, ...],
    more: tuple[Path, ...],
) -> None:  # fmt: skip
    """Measure everything on this machine's GPU, the most important first.

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
            f"--data: no folder with {ARCHIVE} and {CHECKPOINT} was found;"
            " name one, or leave --data out"
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
