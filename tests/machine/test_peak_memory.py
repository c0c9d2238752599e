"""The peak memory of every command is what README says it is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parents[2] / "README.md"
HOME = "runs/vgg11_bn-torchvision-digits"
COMMANDS = {
    "train": [],
    "sensitivity --kind structured": [],
    "sensitivity --kind unstructured": [],
    "plan": ["--budget", "macs=0.5"],
    "structured": ["--ratios", f"{HOME}/ratios.json"],
    "unstructured": ["--sparsity", "0.9", "--scope", "global"],
    "benchmark": ["--batch-sizes", "1,64", "--modes", "eager,folded", "--trials", "9"],
    "export --format onnx": [f"{HOME}/vgg11_digits_structured_pruned.pth"],
    "compare": [],
    "report": [],
}
"""In an order in which each finds what it needs."""
WITHIN = 1.5


def stated() -> dict[str, float]:
    """GB by command: the table in README."""
    rows = re.findall(r"^\| `([^`]+)` \| ([\d.]+) GB \|", README.read_text(), re.MULTILINE)
    return {command: float(size) for command, size in rows}


def test_readme_states_it_for_every_command() -> None:
    assert set(stated()) == set(COMMANDS)


@pytest.mark.long
def test_peak_memory_is_what_readme_says(tmp_path: Path, record_property: Any) -> None:
    measured = {
        command: peak([*command.split(), *rest], tmp_path) for command, rest in COMMANDS.items()
    }
    for command, size in measured.items():
        record_property(command, f"{size:.2f} GB")
    record_property("cases", len(measured))
    for command, size in stated().items():
        assert size / WITHIN <= measured[command] <= size * WITHIN, measured


def peak(args: list[str], where: Path) -> float:
    """GB resident at the most, of a command and its children."""
    words = [
        sys.executable,
        "-m",
        "tp_vgg",
        args[0],
        *([] if args[0] == "export" else ["--dataset", "digits"]),
    ]
    with (where / "log").open("wb") as log:
        process = subprocess.Popen([*words, *args[1:]], cwd=where, stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, (args, (where / "log").read_text()[-500:])
    return used.ru_maxrss * 1024 / 1e9
