"""This part of a round trains dense models, then pruned models and their controls.

The most important come first. This module does not import torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from gpu.outputs import cut, read_runs
from gpu.parts import TINY_BOX, box, command_line, images_options
from gpu.runner import Round

SEEDS = (0, 1, 2)
BUDGETS = (0.5, 0.25, 0.12)
"""Fractions of the dense model's MACs that are kept."""
ZEROS = (0.9, 0.95, 0.98)
"""Sparsities: fractions of all weights that are set to zero."""
SHORT, LONG = 5, 60
"""Numbers of epochs of fine-tuning."""
LARGE = ("--batch-size", "512", "--lr", "0.08")
"""Options of a long fine-tuning: batch size and learning rate are four times the defaults.

60 epochs at the default batch size of 128 do not fit into a round."""
LARGE_DENSE = ("--batch-size", "512", "--lr", "0.4")
"""Options of a dense model with both four times the defaults.

The run shows whether large batches could be the default."""
PROFILE_SECONDS = 50.0
"""Seconds at the end of the round that are kept for the profile."""
Job = Callable[[], None]
"""A job runs steps and records their results."""


def run_dir(r: Round, name: str) -> Path:
    """Return the run directory with this name in the round's working directory."""
    return r.work / "runs" / name


def start(r: Round) -> Path:
    """Return the path of the dense model from which pruned models are made.

    It is the model that this round trained. In a dry run, or if there is none yet, it is the given
    one.
    """
    path = r.setting.trained_dense()
    return path if path.is_file() and not r.setting.tiny else r.setting.dense


def report(r: Round, name: str, directory: Path, **more: int) -> None:
    """Copy the records of a run directory into the results, under ``name``.

    ``more``: values for fields that a record lacks.
    """
    for kind, data in read_runs(directory):
        r.record(kind, name=name, **{**more, **data})


def train_dense(r: Round, seed: int, seconds: float, *more: str) -> None:
    """Train and report the dense model of a seed, unless its record exists.

    ``seconds``: the time box. ``more``: options of `train` in place of the defaults.
    """
    directory = run_dir(r, "-".join([f"dense-s{seed}", *more]).replace("--", ""))
    name = " ".join([f"dense, seed {seed}", *more])
    if (directory / "records" / "baseline.json").is_file():
        return
    epochs = ["--epochs", "1"] if r.setting.tiny else []
    options = ["--head", "linear", "--seed", str(seed), "--out", str(directory), *epochs, *more]
    r.step(name, command_line("train", *images_options(r), *options), box(r, seconds))
    report(r, name, directory)


def sweep_for_plans(r: Round, dense: Path) -> Path:
    """Sweep ``dense`` on val images for the plans, unless that is done; return the table's path."""
    directory = run_dir(r, f"plans-{dense.stem}")
    table = directory / "records" / "structured_sensitivity.json"
    if not table.is_file():
        levels = ["--levels", "0.3,0.6,0.9"] if r.setting.tiny else []
        options = [
            "--kind",
            "structured",
            "--checkpoint",
            str(dense),
            "--out",
            str(directory),
            *levels,
        ]
        r.step(
            "sweep for the plans",
            command_line("sensitivity", *images_options(r), *options),
            box(r, 45),
        )
    return table


def dense_models(r: Round) -> None:
    """Train the dense models of all seeds at the same time, then sweep the first one.

    This runs beside the tests, which leave the GPU idle.
    """
    seeds = SEEDS[:1] if r.setting.tiny else SEEDS
    r.together([partial(train_dense, r, seed, 85) for seed in seeds], at_once=len(seeds))
    cut(r.setting.trained_dense(), r.out)
    sweep_for_plans(r, start(r))


def training(r: Round) -> None:
    """Time training steps alone on the device, then train as many models as the time allows.

    Several trainings run at the same time. A second round in the same working directory goes on
    where this one ends.
    """
    lab_done = r.work / "lab-done"
    if not lab_done.is_file() and r.module("lab", box(r, 40)) is not None:
        lab_done.touch()
    if start(r) == r.setting.dense:
        train_dense(r, 0, 75)
        cut(r.setting.trained_dense(), r.out)
    dense = start(r)
    table = sweep_for_plans(r, dense)
    whole = r.end
    if r.wants("profile") and not r.setting.tiny:
        r.end -= PROFILE_SECONDS
    try:
        r.together(jobs(r, dense, table), at_once=5)
    finally:
        r.end = min(whole, r.end) if r.cut else whole


def jobs(r: Round, dense: Path, table: Path) -> Iterator[Job]:
    """Yield the trainings as jobs, the most important first."""
    if r.setting.tiny:
        yield control(r, dense, table, 0.6, "ours,stock", 1, "--round-to", "2")
        yield zeros(r, dense, 0.95, 1)
        return
    for seed in SEEDS:
        yield partial(train_dense, r, seed, 240)
    for budget in BUDGETS:
        yield control(r, dense, table, budget, "ours,random,stock", SHORT)
    for sparsity in ZEROS:
        yield zeros(r, dense, sparsity, SHORT)
    for seed in SEEDS:
        yield partial(train_dense, r, seed, 240, *LARGE_DENSE)
    for budget in BUDGETS:
        yield control(r, dense, table, budget, "ours", LONG, *LARGE)
    for sparsity in reversed(ZEROS):
        yield zeros(r, dense, sparsity, LONG, *LARGE)
    for budget in BUDGETS:
        arms = "dense,stock" if budget == BUDGETS[0] else "stock"
        yield control(r, dense, table, budget, arms, LONG, *LARGE)
    for budget in BUDGETS:
        yield control(r, dense, table, budget, "scratch", SHORT)


def control(
    r: Round, dense: Path, table: Path, budget: float, arms: str, epochs: int, *more: str
) -> Job:
    """Return a job that meets a budget of MACs in the ways that experiments/controls.py calls arms.

    ``table``: path of the sweep. ``arms``: their names, with commas between. ``more``: further
    options of that script.
    """
    name = f"{budget:g} of the MACs, {epochs} epochs, {arms}"
    directory = run_dir(r, f"controls-{budget:g}-{epochs}-{arms.replace(',', '-')}")
    script = Path(r.setting.root) / "experiments" / "controls.py"
    command = [
        sys.executable,
        str(script),
        *images_options(r),
        "--checkpoint",
        str(dense),
        "--sweep",
        str(table),
        "--out",
        str(directory),
        "--budget",
        str(budget),
        "--seeds",
        "1",
        "--finetune-epochs",
        str(epochs),
        "--arms",
        arms,
        *more,
    ]

    def do() -> None:
        if not table.is_file():
            r.skip(f"fine-tune: {name}", "there is no sweep to plan by")
            return
        r.step(f"fine-tune: {name}", command, TINY_BOX)
        report(r, f"{budget:g} of the MACs", directory)

    return do


def zeros(r: Round, dense: Path, sparsity: float, epochs: int, *more: str) -> Job:
    """Return a job that sets the smallest weights of all layers to zero and trains the others on.

    ``more``: further options of the command `unstructured`.
    """
    directory = run_dir(r, f"zeros-{sparsity:g}-{epochs}")
    command = command_line(
        "unstructured",
        *images_options(r),
        "--checkpoint",
        dense,
        "--out",
        directory,
        "--sparsity",
        sparsity,
        "--scope",
        "global",
        "--finetune-epochs",
        epochs,
        *more,
    )

    def do() -> None:
        # The record may be of an earlier round in the same working directory.
        if not (directory / "records" / "unstructured.json").is_file():
            r.step(f"fine-tune: {sparsity:.0%} zeros, {epochs} epochs", command, TINY_BOX)
        report(r, f"{sparsity:.0%} zeros", directory, epochs=epochs)

    return do
