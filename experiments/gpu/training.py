"""The part that trains: dense models, then pruned ones beside their controls, the most wanted first (no torch)."""

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
"""Shares of the MACs that are kept."""
ZEROS = (0.9, 0.95, 0.98)
SHORT, LONG = 5, 60
"""Epochs of fine-tuning."""
LARGE = ("--batch-size", "512", "--lr", "0.08")
"""Four times both: 60 epochs of batch 128 do not fit into a round."""
LARGE_DENSE = ("--batch-size", "512", "--lr", "0.4")
"""The same for a dense model: whether large batches could be the default."""
PROFILE_SECONDS = 50.0
"""Seconds of the round that are left for the profile."""
Job = Callable[[], None]


def run_dir(r: Round, name: str) -> Path:
    return r.work / "runs" / name


def start(r: Round) -> Path:
    """The dense model to fine-tune from: the one trained here, or else (and in a dry run) the given one."""
    path = r.setting.trained_dense()
    return path if path.is_file() and not r.setting.tiny else r.setting.dense


def report(r: Round, name: str, directory: Path, **more: int) -> None:
    """Copy what a run directory's records say into the results; ``more`` where they do not say it."""
    for kind, data in read_runs(directory):
        r.record(kind, name=name, **{**more, **data})


def train_dense(r: Round, seed: int, seconds: float, *more: str) -> None:
    """Train the dense model of a seed, unless that is done; ``more``: options in the place of the defaults."""
    directory = run_dir(r, "-".join([f"dense-s{seed}", *more]).replace("--", ""))
    name = " ".join([f"dense, seed {seed}", *more])
    if (directory / "records" / "baseline.json").is_file():
        return
    epochs = ["--epochs", "1"] if r.setting.tiny else []
    options = ["--head", "linear", "--seed", str(seed), "--out", str(directory), *epochs, *more]
    r.step(name, command_line("train", *images_options(r), *options), box(r, seconds))
    report(r, name, directory)


def sweep_for_plans(r: Round, dense: Path) -> Path:
    """The sweep on `val` that the plans for ``dense`` are made of."""
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
    """Train the dense models at once, beside the tests, which leave the GPU idle; then sweep the first."""
    seeds = SEEDS[:1] if r.setting.tiny else SEEDS
    r.together([partial(train_dense, r, seed, 85) for seed in seeds], at_once=len(seeds))
    cut(r.setting.trained_dense(), r.out)
    sweep_for_plans(r, start(r))


def training(r: Round) -> None:
    """Where a step's time goes, alone on the device; then as many trainings as fit, several at once.

    A second round in the same place goes on where this one ends.
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
    """What to train, the most wanted first."""
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
        yield control(
            r,
            dense,
            table,
            budget,
            "dense,stock" if budget == BUDGETS[0] else "stock",
            LONG,
            *LARGE,
        )
    for budget in BUDGETS:
        yield control(r, dense, table, budget, "scratch", SHORT)


def control(
    r: Round, dense: Path, table: Path, budget: float, arms: str, epochs: int, *more: str
) -> Job:
    """A budget met in the ways that experiments/controls.py calls arms."""
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
    """The smallest weights of all layers set to zero, and the rest trained on."""
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
        if not (
            directory / "records" / "unstructured.json"
        ).is_file():  # else of an earlier round in this place
            r.step(f"fine-tune: {sparsity:.0%} zeros, {epochs} epochs", command, TINY_BOX)
        report(r, f"{sparsity:.0%} zeros", directory, epochs=epochs)

    return do
