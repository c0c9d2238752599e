"""The README's commands are what CI and users run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def command(start: str) -> str:
    found = re.findall(rf"^{re.escape(start)}.*$", README, re.MULTILINE)
    assert len(found) == 1, f"one line that starts with {start!r}"
    return found[0]


def test_ci_calls_exactly_the_readmes_test_command() -> None:
    assert command("pip install '.[test]'") in (ROOT / ".ci" / "run").read_text().splitlines()


def test_every_command_line_in_the_readme_parses() -> None:
    """Options, values and arguments are ones that the command takes."""
    import importlib

    lines = re.findall(r"python -m tp_vgg ([a-z]+) ([^`\n#]*)", README)
    assert len(lines) >= 6
    for name, rest in lines:
        cli_command = importlib.import_module(f"tp_vgg.cli.{name}").command
        context = cli_command.make_context(name, shlex.split(rest))
        assert context.params, f"{name} {rest}"


def test_the_python_example_runs(tmp_path: Path, make_model) -> None:
    from tp_vgg.network.checkpoint import save

    code = re.search(r"## From Python\n\n```python\n(.*?)```", README, re.DOTALL)
    assert code is not None
    save(make_model(), tmp_path / "dense.pth")
    done = subprocess.run(
        [sys.executable, "-c", code[1]], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "pruned.pth").is_file()


@pytest.mark.slow
def test_the_first_command_runs_as_written(tmp_path: Path) -> None:
    """From `python -m` on, in an empty directory: its baseline learns, its pruned network recovers, and the page is there."""
    args = shlex.split(command("pip install . &&").partition("&& python ")[2])
    done = subprocess.run(
        [sys.executable, *args], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    models = {"baseline", "unstructured", "structured_pruned", "structured_finetuned"}
    rows = [row.split() for row in done.stdout.splitlines()]
    accuracy = {
        row[0]: float(row[1]) for row in rows if len(row) > 2 and row[0] in models and row[2] == "%"
    }
    assert set(accuracy) == models
    assert accuracy["baseline"] > 85
    assert accuracy["structured_finetuned"] > 80
    (page,) = tmp_path.glob("runs/*/report.html")
    assert 100_000 < page.stat().st_size < 3e6
