"""Spots that are no tissue and features that are no genes, or have no names.

Spots beside the tissue: almaan/stereoscope#23, scverse/spatialdata-io#104.  Row numbers for names:
mojaveazure/seurat-disk#115, #123.  Antibodies: satijalab/seurat#9182.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from tissue_sections import GENES, SPOTS, section

from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.read import read_slide
from spatial_ipa.data.slide import Slide


def with_spots_beside(values: Callable[[np.ndarray], object], column: str) -> ad.AnnData:
    """A section with as many spots again beside it, which hold a few counts."""
    data, rng = section(0), np.random.default_rng(1)
    beside = rng.uniform(-900, 900, (4 * SPOTS, 2))
    beside = beside[((beside / [700, 500]) ** 2).sum(axis=1) > 1.05][:SPOTS]
    ambient = sp.csr_matrix(rng.poisson(0.2, (SPOTS, GENES)).astype(np.float32))
    obs = pd.DataFrame(index=[f"b{i}" for i in range(2 * SPOTS)])
    obs[column] = values(np.arange(2 * SPOTS) < SPOTS)
    return ad.AnnData(
        sp.vstack([data.X, ambient]).tocsr(),
        obs=obs,
        var=data.var,
        obsm={"spatial": np.concatenate([data.obsm["spatial"], beside])},
    )


TISSUE_COLUMNS = [
    ("in_tissue", lambda on: on.astype(int)),
    ("in_tissue", lambda on: on),
    ("in_tissue", lambda on: on.astype(float)),
    ("in_tissue", lambda on: pd.Categorical(on.astype(int).astype(str))),
    ("in_tissue", lambda on: np.where(on, "True", "False")),
    ("tissue", lambda on: on.astype(np.int8)),
    ("is_in_tissue", lambda on: pd.array(on, dtype="boolean")),
    ("off_tissue", lambda on: ~on),
]


@pytest.mark.parametrize(("column", "values"), TISSUE_COLUMNS)
def test_spots_beside_the_tissue_are_left_out(
    column: str, values: Callable[[np.ndarray], object], tmp_path: Path
) -> None:
    path = tmp_path / "a.h5ad"
    with_spots_beside(values, column).write_h5ad(path)
    with pytest.warns(UserWarning, match=rf"left out 150 of 300 spots .*obs\['{column}'\]"):
        slide = read_slide(path)
    np.testing.assert_array_equal(slide.counts.toarray(), section(0).X.toarray())
    np.testing.assert_array_equal(slide.rows, np.arange(SPOTS))
    assert len(read_slide(path, SlideKeys(keep_off_tissue=True))) == 2 * SPOTS
    with pytest.warns(UserWarning, match="left out 150 of 300 spots"):
        cells = read_slide(path, require_spatial=False)  # all rows, those beside are not placed
    np.testing.assert_array_equal(cells.is_empty, np.arange(2 * SPOTS) >= SPOTS)


def test_columns_that_only_sound_like_it_are_left_alone() -> None:
    data = section(0)
    data.obs["tissue"] = "brain"
    assert len(Slide.from_anndata(data)) == SPOTS
    data.obs["in_tissue"] = 0
    with pytest.raises(ValueError, match=r"obs\['in_tissue'\] says that no spot .*keep_off_tissue"):
        Slide.from_anndata(data)


@pytest.mark.parametrize(
    "names",
    [
        [str(i) for i in range(GENES)],
        [f"{i + 1}.0" for i in range(GENES)],
        [str(i) for i in np.random.default_rng(0).permutation(GENES)],
        [str(3 * i) for i in range(GENES)],
    ],
    ids=["from 0", "floats from 1", "any order", "rows left of a filter"],
)
def test_row_numbers_are_no_gene_names(names: list[str]) -> None:
    data = section(0)
    data.var["chromosome"] = "chr1"
    data.var["features"] = data.var_names.to_numpy()
    data.var_names = names
    for spatial in (True, False):
        with pytest.raises(ValueError, match=r"row numbers .*names are in features: gene_key=fea"):
            Slide.from_anndata(data, require_spatial=spatial)
    assert Slide.from_anndata(data, SlideKeys(gene_key="features")).genes[0] == "Gene0"
    assert Slide.from_anndata(data, SlideKeys(gene_key="var_names")).genes[0] == names[0]


def test_entrez_ids_are_names() -> None:
    data = section(0)
    ids = np.random.default_rng(0).choice(200_000, GENES, replace=False)
    data.var_names = [str(i) for i in ids]
    assert len(Slide.from_anndata(data).genes) == GENES


@pytest.mark.parametrize(
    ("column", "kinds"),
    [
        ("feature_types", ("Gene Expression", "Antibody Capture")),
        ("feature_type", ("gene_expression", "Peaks")),
        ("modality", ("rna", "protein")),
        ("feature_biotype", ("gene", "spike-in")),
        ("type", ("gene", "protein")),
    ],
)
def test_only_genes_are_read(column: str, kinds: tuple[str, str]) -> None:
    data = section(0)
    stained = np.random.default_rng(1).poisson(500.0, (SPOTS, 20)).astype(np.float32)
    var = pd.DataFrame(index=[*data.var_names, *(f"AB{i}" for i in range(20))])
    var[column] = [kinds[0]] * GENES + [kinds[1]] * 20
    both = ad.AnnData(
        sp.hstack([data.X, sp.csr_matrix(stained)]).tocsr(), obs=data.obs, var=var, obsm=data.obsm
    )
    message = f"left out 20 of 140 features: {kinds[1]} \\(var\\['{column}'\\]"
    with pytest.warns(UserWarning, match=message):
        slide = Slide.from_anndata(both)
    assert slide.content_hash == Slide.from_anndata(data).content_hash


def test_other_kinds_of_feature_are_left_out_by_their_names() -> None:
    data = section(0)
    data.var["type"] = "protein_coding"
    data.var_names = [*data.var_names[:-3], "CD3_TotalSeqB", "CD4_ADT", "HTO_1"]
    with pytest.warns(UserWarning, match="left out 3 of 120 features: antibody$"):
        assert Slide.from_anndata(data).genes == tuple(data.var_names[:-3])


def test_negative_controls_are_left_out_by_their_names() -> None:
    data = section(0)
    controls = ["NegControlProbe_00042", "BLANK_0001", "Blank-7", "NegPrb3", "Negative05"]
    data.var_names = [*data.var_names[:-5], *controls]
    with pytest.warns(UserWarning, match="left out 5 of 120 features: negative control$"):
        assert Slide.from_anndata(data).genes == tuple(data.var_names[:-5])
