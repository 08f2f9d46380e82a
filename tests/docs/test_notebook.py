# SPDX-License-Identifier: MIT
"""examples/prune_resnet.ipynb runs from its first cell to its last, on less data."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples/prune_resnet.ipynb"
# In the place of the cell with this tag, as papermill does it.
TAG = "parameters"
SMALL = {
    "train_images": 256,
    "held_out_images": 100,
    "epochs": 1,
    "pruning_epochs": 2,
    "sparsity": 0.75,
}


def cell_of_settings(notebook: NotebookNode) -> NotebookNode:
    (cell,) = [c for c in notebook.cells if TAG in c.metadata.get("tags", [])]
    return cell


def outputs(notebook: NotebookNode, kind: str) -> list[str]:
    """What the cells showed, as text or as another MIME type."""
    shown = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and kind == "text/plain":
                shown.append(output.text)
            elif kind in output.get("data", {}):
                shown.append(output.data[kind])
    return shown


def test_notebook_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    settings = cell_of_settings(notebook)
    assert all(f"{name} = " in settings.source for name in SMALL)
    settings.source = "\n".join(f"{name} = {value}" for name, value in SMALL.items())
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": tmp_path}}).execute()

    text = "".join(outputs(notebook, "text/plain"))
    assert "75.0% of the conv weights pruned" in text
    assert "there are no channels to group" in text  # the first layer, and why
    assert "because" in text  # explain()'s table
    assert len(outputs(notebook, "image/png")) == 2  # sensitivity and masks


def test_notebook_is_committed_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
