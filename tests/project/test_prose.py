"""Docstrings are whole sentences, and lines of prose fit 100 columns."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WIDTH = 100
MODULES = sorted([*ROOT.glob("tp_vgg/**/*.py"), *ROOT.glob("experiments/**/*.py")])
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/*/*.md")])
FRAGMENTS = re.compile(r"(?:Of|What|Whether|Which|How|Where|Whose|That)\b")
"""Openings of noun clauses and genitives, which leave a sentence without a subject."""
VERBS = re.compile(
    r"\b(?:is|are|was|were|has|have|had|can|may|must|does|do|will|gives?|holds?|says?|makes?|keeps?"
    r"|[a-z]{2,}(?:s|ed|en))\b"
)
"""Finite verbs, roughly: a first sentence without any of these endings can't be a whole one."""

Documented = ast.Module | ast.ClassDef | ast.FunctionDef


def public(node: ast.Module | ast.ClassDef) -> Iterator[Documented]:
    """A module or class, and what is public in it."""
    yield node
    for child in node.body:
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from public(child)
        elif isinstance(child, ast.FunctionDef) and not child.name.startswith("_"):
            yield child


def documented() -> Iterator[tuple[str, Documented, str]]:
    """Place, node and docstring of everything public that has one (ruff asks for the others)."""
    for path in MODULES:
        for node in public(ast.parse(path.read_text())):
            text = ast.get_docstring(node)
            if text:
                place = f"{path.relative_to(ROOT)}: {getattr(node, 'name', 'module')}"
                yield place, node, text


def first_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?:;])\s", " ".join(text.split()), maxsplit=1)[0]


def test_no_public_docstring_is_a_fragment() -> None:
    """Functions open with an imperative (ruff's D401 holds the mood); others have a verb."""
    cases = list(documented())
    assert len(cases) > 600
    fragments = [
        f"{place}: {first_sentence(text)}"
        for place, node, text in cases
        if FRAGMENTS.match(text)
        or (isinstance(node, ast.Module | ast.ClassDef) and not VERBS.search(first_sentence(text)))
        or (isinstance(node, ast.FunctionDef) and not re.match(r"[A-Z][a-z]+\b", text))
    ]
    assert not fragments, "\n".join(fragments)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("Of any number: what is reckoned from it stays finite.", False),
        ("What a model costs.", False),
        ("Whether the device has it.", False),
        ("Return the share of the MACs that is kept.", True),
    ],
)
def test_fragments_are_told_from_sentences(text: str, whole: bool) -> None:
    assert (FRAGMENTS.match(text) is None) is whole


def test_properties_and_functions_open_alike() -> None:
    """A property's docstring opens with the same imperative as a function's: ruff skips them."""
    wrong = [
        f"{place}: {text.split()[0]}"
        for place, node, text in documented()
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(d, ast.Name) and d.id == "property" for d in node.decorator_list)
        and text.split()[0] not in {"Return", "Count", "Tell", "Sum", "Render", "List", "Name"}
    ]
    assert not wrong, "\n".join(wrong)


def test_prose_fits_the_width() -> None:
    """Markdown outside of tables, code blocks and single long links."""
    wide = []
    for path in PAGES:
        fenced = False
        text = path.read_text()
        if path.name == "gpu.md":  # the rest is written by experiments/gpu_round.py
            text = text.partition("## Machine")[0]
        for number, line in enumerate(text.splitlines(), 1):
            fenced ^= line.lstrip().startswith("```")
            if len(line) > WIDTH and not fenced and not line.lstrip().startswith(("|", "![")):
                wide.append(f"{path.relative_to(ROOT)}:{number}: {len(line)}")
    assert not wide, "\n".join(wide)


def test_code_fits_the_width() -> None:
    """All code in the repository, comments for tools included, which ruff leaves out."""
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.toml", "*.cfg", ".ci/run"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    if not listed:
        pytest.skip("not a git checkout")
    widest = max(
        (len(line), name) for name in listed for line in (ROOT / name).read_text().splitlines()
    )
    assert widest[0] <= WIDTH, widest
