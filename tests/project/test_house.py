"""Rules for the source that linters can't check.

import-linter checks the order of the subpackages (pyproject.toml).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tp_vgg"
SOURCES = sorted(PACKAGE.rglob("*.py"))


def test_only_the_wings_stand_at_the_root() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == {
        "__init__",
        "__main__",
        "errors",
        "stats",
    }


def test_no_pyplot_state() -> None:
    assert not [path for path in SOURCES if "pyplot" in path.read_text().replace("no pyplot", "")]


@pytest.mark.skipif("OMP_NUM_THREADS" not in os.environ, reason="one process has all cores")
def test_a_worker_of_pytest_has_the_threads_that_it_was_given() -> None:
    """More threads than cores wait for each other, and counts of near-ties differ by them."""
    import torch

    assert torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"])


def test_no_test_module_imports_another() -> None:
    """Code that several test modules need lies in tests/helpers."""
    imports = re.compile(r"^\s*(?:from|import) (?:\w+\.)*(?:test_\w+|conftest)\b", re.M)
    assert not [path for path in (ROOT / "tests").rglob("*.py") if imports.search(path.read_text())]


def test_design_names_every_module_and_no_other_path() -> None:
    """The tree has each module in the line of its subpackage, and all paths of the page exist."""
    page = (ROOT / "docs" / "design.md").read_text()
    tree = page.partition("```\ntp_vgg/\n")[2].partition("```")[0]
    entries = re.split(r"^  (?=\S)", tree, flags=re.MULTILINE)
    lines = {entry.partition("/")[0]: entry for entry in entries if entry}
    missing = [
        f"{wing.name}/{module.stem}"
        for wing in PACKAGE.iterdir()
        if wing.is_dir() and wing.name not in {"__pycache__", "cli", "stages"}
        for module in wing.glob("*.py")
        if module.stem != "__init__" and not re.search(rf"\b{module.stem}\b", lines[wing.name])
    ]
    assert not missing
    paths = re.findall(r"`((?:\w+/)+\w+\.(?:py|html|md))`", page)
    assert len(paths) > 60
    unknown = {path for path in paths if not ((PACKAGE / path).exists() or (ROOT / path).exists())}
    assert unknown <= {"WING/x.py", "tests/WING/test_x.py", "cli/NAME.py", "stages/NAME.py"}
