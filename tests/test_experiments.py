"""The experiments run: one trial each, figures not judged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_prune_speed_prints_its_table() -> None:
    script = ROOT / "experiments" / "prune_speed.py"
    done = subprocess.run([sys.executable, script, "--trials", "1"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    heads = [line.split()[0] for line in done.stdout.splitlines()[2:]]
    assert heads == ["linear"] * 3 + ["folded"] * 3 + ["unfolded"] * 3
    assert '"environment"' in done.stderr


@pytest.mark.parametrize("script", sorted((ROOT / "experiments").glob("*.py")), ids=lambda path: path.stem)
def test_help_is_there(script: Path) -> None:
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True)
    assert "Usage" in done.stdout
