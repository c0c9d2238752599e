"""Run commands as a user does, and list the files that they leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

QUICK = [
    "--dataset", "digits", "--head", "linear",
    "--limit-train", "64", "--limit-val", "40", "--limit-test", "60",
]  # fmt: skip
"""Options of a run on few digits."""


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def one_line(err: str) -> str:
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert err[:-1].isprintable()
    return err


def launch(*commands: list, cwd: Path, ranks: int = 1) -> subprocess.Popen[str]:
    """Start a command, or several that run one after the other in the same processes."""
    # --standalone takes a free port. torchrun's default port is fixed, and pytest's workers run
    # side by side.
    torchrun = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        if ranks > 1
        else []
    )
    words = [list(map(str, command)) for command in commands]
    what = (
        ["-m", "tp_vgg", *words[0]]
        if len(words) == 1
        else [Path(__file__).with_name("several.py"), json.dumps(words)]
    )
    command = [sys.executable, *torchrun, *what]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, env=environment
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out
