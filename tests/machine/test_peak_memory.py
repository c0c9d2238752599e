"""The peak memory of every command is what docs/concepts/memory.md says it is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MEMORY = Path(__file__).parents[2] / "docs" / "concepts" / "memory.md"
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
"""Each command finds the files that it needs, because the earlier ones wrote them."""
WITHIN = 1.5


def stated() -> dict[str, float]:
    """GB by command: the table in docs/concepts/memory.md."""
    rows = re.findall(r"^\| `([^`]+)` \| ([\d.]+) GB \|", MEMORY.read_text(), re.MULTILINE)
    return {command: float(size) for command, size in rows}


def test_the_page_states_it_for_every_command() -> None:
    assert set(stated()) == set(COMMANDS)


@pytest.mark.long
def test_peak_memory_is_what_the_page_says(tmp_path: Path, record_property: Any) -> None:
    measured = {
        command: peak([*command.split(), *rest], tmp_path) for command, rest in COMMANDS.items()
    }
    for command, size in measured.items():
        record_property(command, f"{size:.2f} GB")
    record_property("cases", len(measured))
    for command, size in stated().items():
        assert size / WITHIN <= measured[command] <= size * WITHIN, measured


def peak(args: list[str], where: Path) -> float:
    """Peak resident memory in GB of a command and its children."""
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
