"""The notebook: committed without outputs, and true from top to bottom."""

from __future__ import annotations

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "pruning_vgg11.ipynb"


@pytest.fixture
def notebook():
    return pytest.importorskip("nbformat").read(NOTEBOOK, as_version=4)


def test_it_is_committed_without_outputs(notebook) -> None:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) == 11
    assert not [cell for cell in code if cell.outputs or cell.execution_count]


def test_its_cells_are_short_and_hold_no_algorithm(notebook) -> None:
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 16
            assert not [
                word
                for word in ("def ", "class ", "for ", "while ")
                if f"\n{word}" in f"\n{cell.source}"
            ]


@pytest.mark.slow
def test_it_runs_on_digits(notebook, tmp_path: Path) -> None:
    """Every cell, in an empty directory; figures where figures are promised."""
    client = pytest.importorskip("nbclient").NotebookClient(
        notebook,
        timeout=1200,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    figures = [
        any("image/png" in output.get("data", {}) for output in cell.outputs) for cell in code
    ]
    assert figures == [False, False, True, True, True, False, True, True, False, True, True]
    closing = next(output.text for output in code[-1].outputs if output.get("name") == "stdout")
    for model in ("baseline", "unstructured", "structured_pruned", "structured_finetuned"):
        assert f"\n{model} " in closing
    assert "predicted → realised" in closing
    left = {path.name for path in (tmp_path / "runs" / "notebook-digits").iterdir()}
    assert {"metrics.json", "latency.json", "ratios.json", "sparsity.json"} <= left
