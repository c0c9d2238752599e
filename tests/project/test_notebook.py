"""The notebook is committed with the outputs that running it on digits gives."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "pruning_vgg11.ipynb"
MODELS = ("baseline", "unstructured", "structured_pruned", "structured_finetuned")


@pytest.fixture
def notebook():
    return pytest.importorskip("nbformat").read(NOTEBOOK, as_version=4)


def code_of(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def structure(notebook: Any) -> list[list[tuple[str, ...]]]:
    """The outputs of each code cell: their kind, and the name of the stream or the forms of data.

    The memory address of a picture or figure, and everything measured, is left out.
    """
    return [
        [
            (one.output_type, one.get("name", ""), *sorted(one.get("data", {})))
            for one in cell.outputs
        ]
        for cell in code_of(notebook)
    ]


def closing_table(notebook: Any) -> str:
    return next(one.text for one in code_of(notebook)[-1].outputs if one.get("name") == "stdout")


def test_it_is_committed_with_outputs(notebook) -> None:
    """In order, without an error, with figures where figures are promised."""
    cells = code_of(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, 12))
    assert all(cell.outputs for cell in cells)
    kinds = {one.output_type for cell in cells for one in cell.outputs}
    assert kinds <= {"stream", "execute_result", "display_data"}
    figures = [any("image/png" in one.get("data", {}) for one in cell.outputs) for cell in cells]
    assert figures == [
        False, False, True, True, True, False, True, True, False, True, True,
    ]  # fmt: skip
    for model in MODELS:
        assert f"\n{model} " in closing_table(notebook)
    assert NOTEBOOK.stat().st_size < 1_000_000


def test_it_tells_nothing_of_the_machine_it_ran_on(notebook) -> None:
    """No absolute path in what is printed, no stderr, no times of execution."""
    outputs = [one for cell in code_of(notebook) for one in cell.outputs]
    assert {one.get("name") for one in outputs} <= {None, "stdout"}
    printed = [one.get("text") or one.data["text/plain"] for one in outputs]
    assert not [text for text in printed if re.search(r"(?:^|[\s'\"(=])/\w+/", text)]
    assert not [cell for cell in notebook.cells if cell.metadata]


def test_its_cells_are_short_and_hold_no_algorithm(notebook) -> None:
    words = ("def ", "class ", "for ", "while ")
    for cell in code_of(notebook):
        assert len(cell.source.splitlines()) <= 17
        assert not [word for word in words if f"\n{word}" in f"\n{cell.source}"]


@pytest.mark.slow
def test_its_outputs_are_current(notebook, tmp_path: Path, monkeypatch) -> None:
    """Run as `docs/make_notebook.py` does: outputs of the same kinds, cell by cell."""
    pytest.importorskip("nbclient")
    committed = structure(notebook)
    monkeypatch.syspath_prepend(ROOT / "docs")
    from make_notebook import executed

    ran = executed(notebook, tmp_path)
    sys.modules.pop("make_notebook")
    assert structure(ran) == committed
    assert all(f"\n{model} " in closing_table(ran) for model in MODELS)
    assert "predicted → realised" in closing_table(ran)
    left = {path.name for path in (tmp_path / "runs" / "notebook-digits").iterdir()}
    assert {"metrics.json", "latency.json", "ratios.json", "sparsity.json"} <= left
