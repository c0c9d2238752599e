"""The commands and the Python of README, guide and reference are what users run: they work."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.fences import GUIDE, PAGES, Fence, commands, fences

from tp_vgg.cli import COMMANDS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MARKDOWN = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/*/*.md")])
DIGITS = "--dataset digits --limit-train 64 --limit-val 40 --limit-test 60"
"""In place of CIFAR-10, which is a download and takes long."""
SKIPPED = {"install", "gpu"}
"""Words behind ``sh`` of blocks that are not run: they install, or need CUDA."""


def command(start: str) -> str:
    found = re.findall(rf"^{re.escape(start)}.*$", README, re.MULTILINE)
    assert len(found) == 1, f"one line that starts with {start!r}"
    return found[0]


def test_ci_calls_exactly_the_readmes_test_command() -> None:
    assert command("pip install '.[test]'") in (ROOT / ".ci" / "run").read_text().splitlines()


def test_readme_is_short_and_has_pictures() -> None:
    assert len(README.splitlines()) <= 120
    assert len(re.findall(r"^!\[", README, re.MULTILINE)) == 3
    for picture in (ROOT / "docs" / "images").glob("*.png"):
        assert picture.stat().st_size < 150_000, picture


def test_every_command_line_parses() -> None:
    """Options, values and arguments are ones that the command takes, on every page."""
    lines = [
        line
        for page in MARKDOWN
        if page.name not in {"CHANGELOG.md", "commands.md"} and page.parent.name != "images"
        for line in re.findall(r"python -m tp_vgg ([a-z]+) ([^`\n#]*)", page.read_text())
    ]
    assert len(lines) >= 40
    for name, rest in lines:
        if "$" not in rest and "COMMAND" not in rest and "…" not in rest:
            words = shlex.split(rest.rstrip("\\ "))
            context = importlib.import_module(f"tp_vgg.cli.{name}").command.make_context(
                name, words, ignore_unknown_options=False, resilient_parsing=rest.endswith("\\")
            )
            assert context.params, f"{name} {rest}"


def test_every_command_has_a_page() -> None:
    told = {name for page in GUIDE for name in re.findall(r"tp_vgg ([a-z]+)", page.read_text())}
    assert told >= set(COMMANDS)


def test_links_lead_somewhere() -> None:
    """Relative links of all pages name files, and headings where they name one."""
    broken = []
    for page in MARKDOWN:
        for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
            name, _, heading = target.partition("#")
            file = (page.parent / name).resolve() if name else page
            if not file.exists():
                broken.append(f"{page.name}: {target}")
            elif heading:
                headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
                slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
                if heading not in slugs:
                    broken.append(f"{page.name}: {target}")
    assert not broken


def test_the_commands_page_is_current() -> None:
    """`python docs/make_commands.py` would write what is there (with this version of click)."""
    made = subprocess.run(
        [sys.executable, "-c", "import make_commands; print(make_commands.page(), end='')"],
        cwd=ROOT / "docs",
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout == (ROOT / "docs" / "reference" / "commands.md").read_text()


def test_every_page_of_the_guide_is_in_its_index() -> None:
    index = (ROOT / "docs" / "guide" / "README.md").read_text()
    assert [f"{name}.md" for name in re.findall(r"\]\(([a-z-]+)\.md\)", index)] == [
        page.name for page in GUIDE
    ]
    assert {page.name for page in (ROOT / "docs" / "guide").iterdir()} == {
        "README.md",
        *(page.name for page in GUIDE),
    }


def run(block: Fence, where: Path) -> str:
    """Run a block as a reader would, and return its stdout."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MPLBACKEND": "agg",
    }
    if block.language == "python":
        words = [sys.executable, "-c", block.text]
    else:
        lines = commands(block)
        if block.needs == "cifar10":
            lines = [f"{line} {DIGITS}" for line in lines if "-m tp_vgg" in line]
        words = ["bash", "-e", "-c", "\n".join(lines)]
    done = subprocess.run(
        words, cwd=where, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{block.place}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_readme_guide_and_reference_run_in_order(tmp_path: Path) -> None:
    """All blocks, in one empty directory; the first command's networks learn and recover."""
    blocks = [
        block
        for block in fences(PAGES)
        if block.language in {"sh", "python"}
        and block.needs not in SKIPPED
        and "pytest" not in block.text
    ]
    assert len(blocks) > 15
    assert len({block.page for block in blocks}) == len(PAGES)
    first = run(blocks[0], tmp_path)
    models = {"baseline", "unstructured", "structured_pruned", "structured_finetuned"}
    rows = [row.split() for row in first.splitlines()]
    accuracy = {
        row[0]: float(row[1]) for row in rows if len(row) > 2 and row[0] in models and row[2] == "%"
    }
    assert set(accuracy) == models
    assert accuracy["baseline"] > 85
    assert accuracy["structured_finetuned"] > 80
    (page,) = tmp_path.glob("runs/*/report.html")
    assert 100_000 < page.stat().st_size < 3e6
    for block in blocks[1:]:
        run(block, tmp_path)
    assert (tmp_path / "pruned.pth").is_file()
