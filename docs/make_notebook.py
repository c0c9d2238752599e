"""This script runs the notebook on digits and keeps the outputs: `python docs/make_notebook.py`.

It takes some minutes on 2 CPU cores, and needs the packages of the extra `test` (nbclient).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "pruning_vgg11.ipynb"


def executed(notebook: nbformat.NotebookNode, directory: Path) -> nbformat.NotebookNode:
    """Return the notebook as run in ``directory``, without the metadata of when and where."""
    client = NotebookClient(
        notebook,
        timeout=1200,
        kernel_name="python3",
        resources={"metadata": {"path": str(directory)}},
    )
    client.execute()
    kernel = notebook.metadata["kernelspec"]
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    for cell in notebook.cells:
        cell.metadata = {}
    return notebook


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        ran = executed(nbformat.read(NOTEBOOK, as_version=4), Path(directory))
    nbformat.write(ran, NOTEBOOK)
