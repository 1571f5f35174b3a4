"""docs/separate.ipynb from top to bottom: the demo in its small form, and a video where real ones are at hand."""

import os
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from recipe_helpers import ROOT

NOTEBOOK = Path("docs/separate.ipynb")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> list[str]:
    """The text of each cell's outputs, in a copy of the recipe."""
    tree = tmp_path_factory.mktemp("notebook") / "recipe"
    hidden = shutil.ignore_patterns(".git", ".venv", "data", "dump", "exp", "tests", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, tree, ignore=lambda folder, names: hidden(folder, names) if Path(folder) == ROOT else set())
    videos = sorted((ROOT.parent / "shared/data/grid_video").glob("*.mpg"))
    os.environ["VIDEO"] = str(videos[0]) if videos else ""
    notebook = nbformat.read(ROOT / NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tree / "docs"}}).execute()
    del os.environ["VIDEO"]
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return ["\n".join(str(output.get("text") or output.get("data", "")) for output in cell.outputs) for cell in cells]


def test_it_is_kept_without_outputs():
    notebook = nbformat.read(ROOT / NOTEBOOK, as_version=4)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")


def test_it_trains_scores_lets_hear_and_separates_a_video(outputs):
    everything = "\n".join(outputs)
    assert "SI-SNRi" in everything and "image/png" in everything
    assert everything.count("audio") >= 3
    assert "(32000,) (2, 50, 1024) (2, 32000)" in everything
    assert "face1" in outputs[-1] or "no VIDEO given" in outputs[-1]
