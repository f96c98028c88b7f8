"""Further public reports on neighbouring tools, rebuilt small; the source of each is named."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from tissue_sections import GENES, SPOTS, joined, positions, section

from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.read import read_slide
from spatial_ipa.data.slide import Slide


def test_coordinates_under_the_key_of_an_embedding() -> None:
    """scverse/squidpy#157."""
    data = section(0)
    data.obsm["X_spatial"] = data.obsm.pop("spatial")
    with pytest.raises(ValueError, match=r"obsm has \['X_spatial'\].*spatial_key"):
        Slide.from_anndata(data)
    assert len(Slide.from_anndata(data, SlideKeys(spatial_key="X_spatial"))) == SPOTS


def test_coordinates_that_were_read_as_text() -> None:
    """scverse/scanpy#2778, #2499: a header line made every position a text."""
    data = section(0)
    data.obsm["spatial"] = data.obsm["spatial"].astype(str).astype(object)
    with pytest.raises(ValueError, match=r"obsm\['spatial'\] must hold numbers, got dtype object"):
        Slide.from_anndata(data)


def test_cells_that_share_the_position_of_their_spot() -> None:
    """scverse/squidpy#925: several cells of one spot."""
    data = section(0)
    data.obsm["spatial"] = np.repeat(data.obsm["spatial"][::3], 3, axis=0)
    data.obs["cell_type"] = (np.arange(SPOTS) * 4 % 11).astype(str)  # no two alike in a spot
    with pytest.raises(ValueError, match="150 of 150 spots that share their position"):
        Slide.from_anndata(data)


def test_a_few_repeated_positions() -> None:
    """chanzuckerberg/cellxgene-census#1330: beads of Slide-seq in pairs."""
    data = section(0)
    data.obsm["spatial"][[1, 7, 20]] = data.obsm["spatial"][[0, 9, 30]]
    assert len(Slide.from_anndata(data)) == SPOTS


def test_codewords_of_xenium() -> None:
    """SydneyBioX/MoleculeExperiment#7, satijalab/seurat#7346."""
    data = section(0)
    controls = ["NegControlProbe_00042", "NegControlCodeword_0500", "BLANK_0001"]
    var = pd.DataFrame(index=[*data.var_names, *controls])
    var["feature_types"] = [
        *["Gene Expression"] * GENES,
        *["Negative Control Probe", "Negative Control Codeword", "Unassigned Codeword"],
    ]
    x = sp.hstack([data.X, sp.csr_matrix(np.ones((SPOTS, 3), np.float32))]).tocsr()
    with pytest.warns(UserWarning, match="left out 3 of 123 features"):
        slide = Slide.from_anndata(ad.AnnData(x, obs=data.obs, var=var, obsm=data.obsm))
    assert slide.content_hash == Slide.from_anndata(data).content_hash


def test_suffixes_of_repeated_concatenation() -> None:
    """scverse/spatialdata#541: names grow a number with each step."""
    data = joined("batch")
    del data.obs["batch"]
    ends = np.repeat(["-1_0_0", "-1_0_1", "-1_1"], SPOTS)
    data.obs_names = [f"AACT{i}{end}" for i, end in enumerate(ends)]
    with pytest.raises(ValueError, match="several sections: by the ends of obs_names"):
        Slide.from_anndata(data)


def test_names_of_the_same_array_repeat() -> None:
    """drighelli/SpatialExperiment#100, scverse/scanpy#55: one set of barcodes."""
    data = joined("batch", 2)
    data.obs = pd.DataFrame(index=[f"AAAC{i % SPOTS}-1" for i in range(2 * SPOTS)])
    with pytest.raises(ValueError, match="several sections: by the repeats of obs_names"):
        Slide.from_anndata(data)


def test_libraries_that_were_lost_in_joining() -> None:
    """scverse/anndata#406: only the first object has its name in obs["library_id"]."""
    data = joined("library_id", 2)
    names = data.obs["library_id"].astype(object)
    data.obs["library_id"] = names.where(names != "S1")
    with pytest.raises(ValueError, match=r"2 sections \(S0, no value\) by obs\['library_id'\]"):
        Slide.from_anndata(data)


def test_what_other_writers_leave_beside_the_parts(tmp_path: Path) -> None:
    """scverse/anndata#1051: JHDF5 adds a group of named types."""
    section(0).write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        file["__DATA_TYPES__/Enum_Boolean"] = h5py.enum_dtype(
            {"FALSE": 0, "TRUE": 1}, basetype="i1"
        )
    assert len(read_slide(tmp_path / "a.h5ad")) == SPOTS


def test_logarithms_that_are_called_counts() -> None:
    """BayraktarLab/cell2location#249, #313: log1p of counts, ln 2 and ln 3 among its values."""
    data = section(0)
    data.X.data = np.log1p(data.X.data)
    with pytest.warns(UserWarning, match="log-normalised: natural logarithms of whole multiples"):
        assert Slide.from_anndata(data).is_logged


def test_the_whole_table_of_positions() -> None:
    """dmcable/spacexr#29: in_tissue, array and pixel positions side by side."""
    data = section(0)
    data.obsm["spatial"] = np.c_[np.ones((SPOTS, 3)), data.obsm["spatial"]]
    with pytest.raises(ValueError, match=r"must have shape \(150, 2\), got \(150, 5\)"):
        Slide.from_anndata(data)


def test_fields_of_view_in_one_frame_each() -> None:
    """scverse/squidpy#642, labsyspharm/scimap#130."""
    parts = {str(i): section(i, positions(i, 30)) for i in range(8)}
    with pytest.raises(ValueError, match=r"holds 8 sections .* by obs\['fov'\]"):
        Slide.from_anndata(ad.concat(parts, label="fov"))


def test_cells_without_a_position() -> None:
    """scverse/spatialdata#387."""
    data = section(0)
    data.obsm["spatial"][:4] = np.nan
    with pytest.raises(ValueError, match="4 spots with NaN or infinite coordinates"):
        Slide.from_anndata(data)
