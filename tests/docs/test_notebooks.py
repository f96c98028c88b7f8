"""The notebooks are committed without what a run leaves in them, and end with a check.

The build of the site executes them, and fails where one does.
"""

from __future__ import annotations

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
OF_DATA = ["dissociated_cells", "ensemble", "slide"]


def test_there_is_one_for_each_kind_of_data_and_one_of_the_layers() -> None:
    assert [path.stem for path in NOTEBOOKS] == sorted([*OF_DATA, "layers"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_holds_no_output_and_checks_something(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert code[-1].source.startswith("assert ")


@pytest.mark.parametrize("name", OF_DATA)
def test_the_log_of_a_training_is_not_shown(name: str) -> None:
    """``%%capture`` does not catch what a training writes from a process of its own."""
    cells = nbformat.read(ROOT / "docs" / "notebooks" / f"{name}.ipynb", as_version=4).cells
    fits = [cell for cell in cells if cell.cell_type == "code" and ".fit(" in cell.source]
    assert fits
    assert all("remove-output" in cell.metadata.get("tags", []) for cell in fits)
