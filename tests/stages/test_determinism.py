"""The seed determines everything: the same commands in two processes leave the same bits."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import QUICK

from tp_vgg.network.checkpoint import load

TESTS = Path(__file__).parents[1]
DRIVER = """
import json, sys
sys.path.append(sys.argv[3])
import torch
from helpers import quick
from tp_vgg import cli
from tp_vgg.network.vgg import spec
torch.set_num_threads(int(sys.argv[2]))
spec.STAGE_WIDTHS = (8, 12, 16, 20, 24)
undrawn = quick.undrawn()
undrawn.__enter__()
quick.settle()
for command in json.loads(sys.argv[1]):
    status = cli.execute(command)
    if status:
        sys.exit(status)
"""
pytestmark = pytest.mark.slow
COMMANDS = [
    ["train", "--epochs", "2", "--batch-size", "16"],
    ["sensitivity", "--kind", "structured", "--levels", "0.25,0.5", "--importance", "random"],
    ["sensitivity", "--kind", "unstructured", "--levels", "0.5,0.9"],
    ["unstructured", "--sparsity", "0.8", "--gradual", "--finetune-epochs", "2"],
    ["structured", "--ratio", "0.5", "--importance", "random", "--steps", "2",
     "--finetune-epochs", "2", "--recalibrate"],
]  # fmt: skip


def left_by(seed: int, threads: int, where: Path, wanted: tuple[str, ...]) -> dict[str, Any]:
    """The contents of the files left, without times, peaks of memory and file names."""
    where.mkdir()
    commands = [
        [*command, *QUICK, "--seed", str(seed), "--out", "o", "-q"]
        for command in COMMANDS
        if command[0] in wanted
    ]
    words = [sys.executable, "-c", DRIVER, json.dumps(commands), str(threads), str(TESTS)]
    done = subprocess.run(words, cwd=where, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = {"stdout": [line.split("  ")[0] for line in done.stdout.splitlines()]}
    for path in sorted((where / "o").rglob("*")):
        if path.suffix == ".pth" and "sensitivity" not in path.name:
            state = load(path).state_dict()
            found[path.name] = {name: value.numpy().tobytes() for name, value in state.items()}
        elif path.name.endswith("history.csv"):
            found[path.name] = [row[:-1] for row in csv.reader(path.read_text().splitlines())]
        elif path.suffix == ".csv":
            found[path.name] = path.read_text()
    return found


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.long)])
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    where = tmp_path_factory.mktemp("runs")
    every, few = ("train", "sensitivity", "unstructured", "structured"), ("train", "unstructured")
    asked = ((5, every), (5, every), (6, few))
    return [
        left_by(seed, request.param, where / str(place), wanted)
        for place, (seed, wanted) in enumerate(asked)
    ]


def test_two_processes_leave_the_same_bits(runs: list[dict[str, Any]]) -> None:
    assert len(runs[0]) == 1 + 4 + 3 + 2, sorted(runs[0])
    for name, content in runs[0].items():
        assert runs[1][name] == content, name


def test_another_seed_leaves_others(runs: list[dict[str, Any]]) -> None:
    for name in ("vgg11_digits_finetuned.pth", "unstructured_pruned_vgg11.pth", "history.csv"):
        assert runs[2][name] != runs[0][name], name
