"""What the linters can't say of the package's own source. The order of the wings is import-linter's (pyproject.toml)."""

from __future__ import annotations

import re
from pathlib import Path

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


def test_no_test_module_imports_another() -> None:
    """What several need lies in tests/helpers."""
    imports = re.compile(r"^\s*(?:from|import) (?:\w+\.)*(?:test_\w+|conftest)\b", re.M)
    assert not [path for path in (ROOT / "tests").rglob("*.py") if imports.search(path.read_text())]
