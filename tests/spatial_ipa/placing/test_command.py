"""Input of `lightning predict`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.placing.command import CellDataModule
from spatial_ipa.placing.options import PlacementOptions


def make(cells: int, genes: int) -> ad.AnnData:
    counts = np.random.default_rng(0).poisson(2.0, (cells, genes)).astype(np.float32)
    return ad.AnnData(counts, var={"var_names": [f"g{i}" for i in range(genes)]})


def test_existing_output_is_refused_unless_told(tmp_path: Path) -> None:
    taken = tmp_path / "out.h5ad"
    taken.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match=r"out\.h5ad exists; .*data\.overwrite"):
        CellDataModule("in.h5ad", str(taken))
    assert CellDataModule("in.h5ad", str(taken), overwrite=True).overwrite
    assert taken.read_bytes() == b"precious"


def test_a_missing_folder_of_the_output_is_made_once_the_input_is_read(tmp_path: Path) -> None:
    output, cells = tmp_path / "absent" / "out.h5ad", tmp_path / "cells.h5ad"
    with pytest.raises(FileNotFoundError, match=r"cells\.h5ad"):
        CellDataModule(str(cells), str(output)).setup("predict")
    assert not output.parent.exists()
    counts = np.random.default_rng(0).poisson(2.0, (12, 5)).astype(np.float32)
    cell_data = ad.AnnData(counts)
    cell_data.var_names = [f"GENE{number}" for number in range(5)]
    cell_data.write_h5ad(cells)
    CellDataModule(str(cells), str(output)).setup("predict")
    assert output.parent.is_dir()


def test_output_that_is_the_input_is_refused(tmp_path: Path) -> None:
    """Also through another spelling or a link, and also when overwriting is allowed."""
    path = tmp_path / "cells.h5ad"
    path.write_bytes(b"precious")
    (tmp_path / "link.h5ad").symlink_to(path)
    (tmp_path / "sub").mkdir()
    for output in (path, tmp_path / "link.h5ad", tmp_path / "sub" / ".." / "cells.h5ad"):
        with pytest.raises(ValueError, match=r"data\.output is the input file"):
            CellDataModule(str(path), str(output), overwrite=True)


def test_an_earlier_prediction_is_refused_before_any_work_unless_told(tmp_path: Path) -> None:
    data = make(12, 5)
    data.var_names = [f"g{i}" for i in range(data.n_vars)]
    data.obsm["X_spatial_ipa"] = np.zeros((12, 2))
    data.write_h5ad(tmp_path / "cells.h5ad")
    files = str(tmp_path / "cells.h5ad"), str(tmp_path / "out.h5ad")
    with pytest.raises(ValueError, match=r"earlier prediction \(obsm\['X_spatial_ipa'\]\); set"):
        CellDataModule(*files).setup("predict")
    CellDataModule(*files, overwrite=True).setup("predict")


def test_a_folder_is_no_output(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.output must name a file, but .* is a folder"):
        CellDataModule("in.h5ad", str(tmp_path), overwrite=True)


def test_cells_of_another_format_have_no_copy_to_be_placed_in(
    tmp_path: Path, toy_format: Callable[[ad.AnnData, Path], Path]
) -> None:
    """The reader takes them; the copy of the file could not hold coordinates."""
    data = make(12, 5)
    data.var_names = [f"g{i}" for i in range(data.n_vars)]
    cells = toy_format(data, tmp_path / "cells.toy")
    for overwrite in (False, True):
        module = CellDataModule(str(cells), str(tmp_path / "out.h5ad"), overwrite=overwrite)
        with pytest.raises(ValueError, match=r"cells\.toy: .* a copy .* must be an \.h5ad"):
            module.setup("predict")


def test_cells_bring_their_gene_names_in_a_column(tmp_path: Path) -> None:
    data = make(12, 5)
    data.var_names = [f"g{i}" for i in range(data.n_vars)]
    data.var["feature_name"] = list("ABCDE")
    data.write_h5ad(tmp_path / "cells.h5ad")
    files = str(tmp_path / "cells.h5ad"), str(tmp_path / "out.h5ad")
    module = CellDataModule(*files, keys=SlideKeys(gene_key="feature_name"))
    module.setup("predict")
    assert module.request.slide.genes == tuple("ABCDE")
    with pytest.raises(ValueError, match="var has no column 'name'"):
        CellDataModule(*files, keys=SlideKeys(gene_key="name")).setup("predict")


def test_cells_are_for_prediction_only(tmp_path: Path) -> None:
    module = CellDataModule("in.h5ad", str(tmp_path / "out.h5ad"))
    with pytest.raises(ValueError, match="only serves `lightning predict`"):
        module.setup("fit")


@pytest.mark.parametrize("count", [0, 4])
def test_hypotheses_are_one_to_three(count: int) -> None:
    with pytest.raises(ValueError, match=rf"num_hypotheses must lie in \[1, 3\], got {count}"):
        PlacementOptions(num_hypotheses=count)


def test_one_draw_has_no_spread() -> None:
    with pytest.raises(ValueError, match="at least 2 for a spread, got 1"):
        PlacementOptions(num_draws=1)
    with pytest.raises(ValueError, match="approximate_above must be positive, got 0"):
        PlacementOptions(approximate_above=0)


def test_a_graph_that_needs_faiss_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = tmp_path / "cells.h5ad"
    make(12, 5).write_h5ad(cells)
    monkeypatch.setattr("spatial_ipa.placing.command.find_spec", lambda name: None)

    def module(**options: object) -> CellDataModule:
        placement = PlacementOptions(**options)  # type: ignore[arg-type]
        return CellDataModule(str(cells), str(tmp_path / "out.h5ad"), placement=placement)

    with pytest.raises(ImportError, match=r"12 cells needs faiss.*write_graph=false"):
        module(approximate_above=11).setup("predict")
    for options in ({"approximate_above": 12}, {"approximate_above": 1, "write_graph": False}):
        data = module(**options)
        data.setup("predict")
        assert list(data.request.clock.seconds) == ["read"]
