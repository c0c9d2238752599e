"""With torchrun two processes train like one, within noise, and leave one set of files."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from helpers.commands import files, launch

from tp_vgg.cli import execute
from tp_vgg.network.checkpoint import load, save
from tp_vgg.network.vgg.model import build
from tp_vgg.network.vgg.spec import VGGSpec

THIN = VGGSpec((16, 24, 32, 32, 40, 40, 48, 48))
OPTIONS = ["--dataset", "digits", "--limit-test", "150", "-q"]
TRAIN = ["train", *OPTIONS, "--weights", "thin.pth", "--epochs", "4", "--batch-size", "32"]
PRUNE = ["structured", *OPTIONS, "--ratio", "0.5", "--finetune-epochs", "2", "--batch-size", "32"]
FEW = [
    "--dataset",
    "digits",
    "--limit-train",
    "25",
    "--limit-val",
    "20",
    "--limit-test",
    "20",
    "-q",
]
STEP = [
    "train",
    *FEW,
    "--weights",
    "plain.pth",
    "--epochs",
    "1",
    "--batch-size",
    "16",
    "--lr",
    "0.001",
]
STEP += ["--precision", "fp32"]
REFUSED = ["structured", "--dataset", "digits", "--ratio", "2"]


@dataclass(frozen=True)
class Left:
    """The results of the jobs."""

    jobs: dict[int, Path]
    """Run directories of training and pruning, by number of processes."""
    steps: dict[int, Path]
    """Run directories of a few training steps, by number of processes."""
    status: int
    said: str
    """Exit status and stderr of torchrun, whose last command was refused."""


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Left:
    """Run all commands with one process, and with two in a single torchrun."""
    where = tmp_path_factory.mktemp("ddp")
    torch.manual_seed(0)
    for name, spec in (("thin", THIN), ("plain", replace(THIN, batch_norm=False))):
        model = build(spec)
        model.meta = {
            "mean": [0.3] * 3,
            "std": [0.3] * 3,
            "dataset": "digits",
            "classes": list("0123456789"),
        }
        save(model, where / f"{name}.pth")
    commands = {
        n: [[*TRAIN, "--out", f"o{n}"], [*PRUNE, "--out", f"o{n}"], [*STEP, "--out", f"s{n}"]]
        for n in (1, 2)
    }
    with contextlib.chdir(where):
        for command in commands[1]:
            assert execute(command) == 0
    two = launch(*commands[2], REFUSED, cwd=where, ranks=2)
    _, said = two.communicate(timeout=300)
    return Left(
        {n: where / f"o{n}" for n in (1, 2)},
        {n: where / f"s{n}" for n in (1, 2)},
        two.returncode,
        said,
    )


@pytest.mark.slow
def test_two_processes_do_what_one_does(left: Left) -> None:
    """One test with four parts, so that the results are made once, not once per worker."""
    reach_what_one_does(left.jobs)
    count_every_image_once(left.jobs)
    have_the_gradients_of_the_whole_batch(left)
    say_a_refusal(left)


def reach_what_one_does(directories: dict[int, Path]) -> None:
    """The accuracies differ by less than those of two seeds may, and are far above chance."""
    found = {}
    for ranks, out in directories.items():
        for model in ("baseline", "structured_finetuned"):
            record = json.loads((out / "records" / f"{model}.json").read_text())
            found[ranks, model] = record["test"]["accuracy"]
            assert record["test"]["n"] == 150
    for model in ("baseline", "structured_finetuned"):
        assert min(found[1, model], found[2, model]) > 60
        assert abs(found[1, model] - found[2, model]) < 20
    assert files(directories[1]) == files(directories[2])


def count_every_image_once(directories: dict[int, Path]) -> None:
    rows = {
        ranks: (out / "history.csv").read_text().splitlines() for ranks, out in directories.items()
    }
    assert len(rows[1]) == len(rows[2]) == 5
    for one, two in zip(rows[1][1:], rows[2][1:], strict=True):
        first, second = [[float(value) for value in row.split(",")] for row in (one, two)]
        assert first[1] == second[1], "the rates"
        assert 0 < second[2] < 3 and 0 < second[3] <= 100
        assert abs(first[2] - second[2]) < 0.5, "mean loss of an image"


def have_the_gradients_of_the_whole_batch(left: Left) -> None:
    """Without batch norm and dropout the steps of two processes equal those of one.

    They agree up to rounding, also with an uneven last batch.
    """
    one, two = (
        load(left.steps[ranks] / "vgg11_digits_finetuned.pth").state_dict() for ranks in (1, 2)
    )
    for name, value in one.items():
        assert torch.allclose(value, two[name], rtol=1e-4, atol=1e-6), name


def say_a_refusal(left: Left) -> None:
    assert "error: --ratio" in left.said
    assert left.status == 1, "torchrun's own"
    assert {path.name for path in left.jobs[1].parent.iterdir()} == {
        "thin.pth",
        "plain.pth",
        "o1",
        "o2",
        "s1",
        "s2",
    }
