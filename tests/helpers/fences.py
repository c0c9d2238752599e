"""The fenced code blocks of README and of the guide, in the order in which a reader meets them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUIDE = [
    ROOT / "docs" / "guide" / f"{name}.md"
    for name in (
        "first-run", "your-data", "sweeps", "plans", "pruning", "repair", "fine-tuning",
        "own-loop", "latency", "export", "report",
    )
]  # fmt: skip
PAGES = [ROOT / "README.md", *GUIDE, ROOT / "docs" / "reference" / "python.md"]
_FENCE = re.compile(r"^```(\S+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Fence:
    """A code block: its page, language, the word behind that (``cifar10``, …) and its text."""

    page: Path
    language: str
    needs: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.text.strip().splitlines()[0]}"


def fences(pages: list[Path] = PAGES) -> list[Fence]:
    return [
        Fence(page, language, needs, text)
        for page in pages
        for language, needs, text in _FENCE.findall(page.read_text())
    ]


def commands(block: Fence) -> list[str]:
    """The lines of a shell block, continued ones joined, comments and installation left out."""
    joined = re.sub(r"\\\n\s*", "", block.text)
    lines = [line.partition("  #")[0].strip() for line in joined.splitlines()]
    lines = [re.sub(r"^pip install \S+ && ", "", line) for line in lines]
    return [line for line in lines if line and not line.startswith("#")]
