"""What is refused of a slide, and what is mended."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from slide_files import N, dense, make, save

from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.read import read_slide


def set_x(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[ad.AnnData], ad.AnnData]:
    def apply(data: ad.AnnData) -> ad.AnnData:
        data.X = change(dense(data))
        return data

    return apply


def put(row: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(x: np.ndarray) -> np.ndarray:
        x[row, 3] = value
        return x

    return change


def set_xy(change: Callable[[np.ndarray], object]) -> Callable[[ad.AnnData], ad.AnnData]:
    def apply(data: ad.AnnData) -> ad.AnnData:
        data.obsm["spatial"] = change(np.array(data.obsm["spatial"]))
        return data

    return apply


def drop_xy(data: ad.AnnData) -> ad.AnnData:
    data.obsm["other"] = data.obsm.pop("spatial")
    return data


def without_x(data: ad.AnnData) -> ad.AnnData:
    return ad.AnnData(None, obs=data.obs, var=data.var, obsm=dict(data.obsm), layers={"l": data.X})


def rename(*genes: str) -> Callable[[ad.AnnData], ad.AnnData]:
    def apply(data: ad.AnnData) -> ad.AnnData:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Variable names are not unique")
            data.var_names = [*genes, *data.var_names[len(genes) :]]
        return data

    return apply


def duplicated_and_logged(data: ad.AnnData) -> ad.AnnData:
    data.X = np.log1p(dense(data))
    return rename("same", "same")(data)


def two_patients(data: ad.AnnData) -> ad.AnnData:
    data.obs["patient"] = ["P1"] * 30 + ["P2"] * 30
    return data


def two_sections(data: ad.AnnData) -> ad.AnnData:
    data.obs["library_id"] = pd.Categorical(["S1"] * 30 + ["S2"] * 30)
    return data


def two_images(data: ad.AnnData) -> ad.AnnData:
    data.uns["spatial"] = {s: {"scalefactors": {"spot_diameter_fullres": 1.0}} for s in "ab"}
    return data


def mostly_empty(x: np.ndarray) -> np.ndarray:
    x[20:] = 0
    return x


BAD_CONTENT = [
    ("negative", set_x(put(2, -1.0)), "negative values .*raw counts wanted"),
    ("scaled", set_x(lambda x: (x - x.mean(0)) / x.std(0)), "negative values .*raw counts wanted"),
    ("nan", set_x(put(2, np.nan)), "1 values that are NaN"),
    ("infinite", set_x(put(2, np.inf)), "1 values that are NaN, infinite"),
    ("beyond float32", set_x(put(2, 1e300)), "beyond float32"),
    ("all zero", set_x(np.zeros_like), "zero everywhere"),
    ("boolean", set_x(lambda x: x > 0), "must hold numbers, got dtype bool"),
    ("no rows", lambda data: data[:0].copy(), r"empty, X has shape \(0, 30\)"),
    ("no genes", lambda data: data[:, :0].copy(), r"empty, X has shape \(60, 0\)"),
    (
        "few spots",
        lambda data: data[:49].copy(),
        "49 spots with counts, at least 50 are needed",
    ),
    (
        "few non-empty spots",
        set_x(mostly_empty),
        "20 spots with counts, at least 50 are needed",
    ),
    ("no X", without_x, "has no X; other values of layer: l$"),
    ("no coordinates", drop_xy, r"obsm\['spatial'\] are missing .*'other'"),
    ("three columns", set_xy(lambda xy: np.c_[xy, xy[:, :1]]), "three columns are ambiguous"),
    ("one column", set_xy(lambda xy: xy[:, :1]), r"shape \(60, 2\), got \(60, 1\)"),
    ("nan coordinates", set_xy(lambda xy: np.where(xy > 3, np.nan, xy)), "NaN or infinite coord"),
    ("one position", set_xy(lambda xy: 0 * xy + 5), "all spots at one position"),
    ("text coordinates", set_xy(lambda xy: xy.astype(str).astype(object)), "must hold numbers"),
    ("sparse coordinates", set_xy(sp.csr_matrix), "must hold numbers"),
    ("unnamed genes", rename("", "  "), "2 of 30 var_names are empty"),
    ("duplicates, logged", duplicated_and_logged, "1 duplicate gene names in logged values"),
    ("two patients", two_patients, r"names 2 patients \(P1, P2\)"),
    ("two sections", two_sections, r"holds 2 sections \(S1, S2\).*one file per section"),
]


@pytest.mark.filterwarnings("ignore:.*dropped 40 of 60 spots", "ignore:.*taken as log-normalised")
@pytest.mark.parametrize(
    ("damage", "message"), [case[1:] for case in BAD_CONTENT], ids=[case[0] for case in BAD_CONTENT]
)
def test_unusable_content_is_refused_by_name(
    tmp_path: Path, damage: Callable[[ad.AnnData], ad.AnnData], message: str
) -> None:
    path = save(damage(make()), tmp_path / "slide_x.h5ad")
    with pytest.raises(ValueError, match=message) as caught:
        read_slide(path, require_spatial=True)
    assert "slide_x.h5ad" in str(caught.value)


def one_section_declared(data: ad.AnnData) -> ad.AnnData:
    """Two images, as of two capture areas, declared to lie in one frame."""
    data = two_images(data)
    data.obs["library_id"] = "both"
    return data


def one_image(data: ad.AnnData) -> ad.AnnData:
    data = two_images(data)
    data.uns["spatial"] = {"a": data.uns["spatial"]["a"], "is_single": True, "notes": {"by": "x"}}
    return data


@pytest.mark.parametrize(
    ("change", "require_spatial"),
    [(one_section_declared, True), (one_image, True), (two_sections, False), (two_images, False)],
)
def test_files_whose_sections_would_not_be_stacked_are_read(
    tmp_path: Path, change: Callable[[ad.AnnData], ad.AnnData], require_spatial: bool
) -> None:
    """One section whatever else the file holds, or cells, whose coordinates are not looked at."""
    path = save(change(make()), tmp_path / "slide.h5ad")
    assert len(read_slide(path, require_spatial=require_spatial)) == 60


def renamed(data: ad.AnnData, kind: str) -> ad.AnnData:
    """Ids as ``var_names``, and the names they had in a column, as public files come."""
    data.var["symbol"] = [f" {name} " for name in data.var_names]
    data.var["symbol"] = data.var["symbol"].astype(kind)
    data.var_names = [f"ENSG{i:011d}" for i in range(data.n_vars)]
    return data


@pytest.mark.parametrize("kind", ["category", "object"])
def test_gene_names_in_a_column(tmp_path: Path, kind: str) -> None:
    reference = read_slide(save(make(), tmp_path / "a.h5ad"), require_spatial=True)
    path = save(renamed(make(), kind), tmp_path / "b.h5ad")
    slide = read_slide(path, SlideKeys(gene_key="symbol"), require_spatial=True)
    assert slide.genes == reference.genes
    assert slide.content_hash == reference.content_hash
    for index in (None, "var_names"):
        slide = read_slide(path, SlideKeys(gene_key=index), require_spatial=True)
        assert slide.genes[:2] == ("ENSG00000000000", "ENSG00000000001")
    with pytest.raises(ValueError, match=r"b\.h5ad: var has no column 'name' .*; it has symbol$"):
        read_slide(path, SlideKeys(gene_key="name"), require_spatial=True)


def test_gene_names_in_a_column_of_raw(tmp_path: Path) -> None:
    """``raw`` has genes of its own, and columns of its own."""
    data = make()
    data.raw = renamed(make(), "category")
    path = save(data, tmp_path / "a.h5ad")
    slide = read_slide(path, SlideKeys(layer="raw.X", gene_key="symbol"), require_spatial=True)
    assert slide.genes == tuple(data.var_names)
    with pytest.raises(ValueError, match=r"var has no column 'symbol' .*; it has none$"):
        read_slide(path, SlideKeys(gene_key="symbol"), require_spatial=True)
    with h5py.File(path, "r+") as file:
        del file["raw/var"]
        file["raw"]["var"] = np.array([("a",)], dtype=[("index", "S1")])
    with pytest.raises(ValueError, match=r"a\.h5ad: raw\.var is one array, .*anndata before 0\.7"):
        read_slide(path, SlideKeys(layer="raw.X", gene_key="symbol"), require_spatial=True)


@pytest.mark.parametrize("kind", ["category", "object"])
def test_genes_without_a_name_and_with_the_same(tmp_path: Path, kind: str) -> None:
    data = renamed(make(), "object")
    names = data.var["symbol"].tolist()
    data.var["twice"] = [names[0], names[0], *names[2:]]
    data.var["gaps"] = [None, None, *names[2:]]
    data.var = data.var.astype(kind)
    path = save(data, tmp_path / "a.h5ad")
    with pytest.warns(UserWarning, match="1 duplicate gene names; counts .* were summed"):
        slide = read_slide(path, SlideKeys(gene_key="twice"), require_spatial=True)
    np.testing.assert_array_equal(slide.counts[:, 0].toarray()[:, 0], dense(data)[:, :2].sum(1))
    with pytest.raises(ValueError, match=r"2 of 30 var\['gaps'\] are empty"):
        read_slide(path, SlideKeys(gene_key="gaps"), require_spatial=True)


@pytest.mark.parametrize(
    ("change", "logged"),
    [
        (lambda x: x, False),
        (lambda x: np.log1p(x), True),
        (lambda x: np.log1p(1e4 * x / x.sum(1, keepdims=True)), True),
        (lambda x: 1e4 * x / x.sum(1, keepdims=True), False),
        (lambda x: np.minimum(x, 3), False),
    ],
    ids=["counts", "log1p", "log-cp10k", "cp10k", "small counts"],
)
def test_logged_values_are_recognised(
    tmp_path: Path, change: Callable[[np.ndarray], np.ndarray], logged: bool
) -> None:
    path = save(set_x(change)(make()), tmp_path / "a.h5ad")
    said = pytest.warns(UserWarning, match="X is taken as log-normalised: .*state values=counts")
    with said if logged else nullcontext():
        assert read_slide(path, require_spatial=True).is_logged is logged
    assert read_slide(path, require_spatial=True, logged=not logged).is_logged is not logged


def test_duplicate_genes_are_summed_and_counted(tmp_path: Path) -> None:
    """White space is stripped before names are compared; case is not touched."""
    data = rename("B", "A", "B ", "b", "A")(make())
    path = save(data, tmp_path / "a.h5ad")
    with pytest.warns(UserWarning, match=r"2 duplicate gene names.*28 genes remain"):
        slide = read_slide(path, require_spatial=True)
    x = dense(data)
    assert slide.genes[:4] == ("B", "A", "b", "G5")
    np.testing.assert_array_equal(slide.counts[:, 0].toarray().ravel(), x[:, 0] + x[:, 2])
    np.testing.assert_array_equal(slide.counts[:, 1].toarray().ravel(), x[:, 1] + x[:, 4])
    np.testing.assert_array_equal(slide.counts[:, 3:].toarray(), x[:, 5:])


def test_empty_spots_are_dropped_for_training_and_flagged_for_prediction(tmp_path: Path) -> None:
    data = make()
    x = dense(data)
    x[[3, 10]] = 0
    data.X = x
    path = save(data, tmp_path / "a.h5ad")
    with pytest.warns(UserWarning, match="dropped 2 of 60 spots"):
        training = read_slide(path, require_spatial=True)
    keep = np.setdiff1d(np.arange(N), [3, 10])
    assert training.obs_names == tuple(data.obs_names[keep])
    np.testing.assert_array_equal(training.xy, data.obsm["spatial"][keep])
    assert not training.is_empty.any()
    cells = read_slide(path, require_spatial=False)
    assert cells.obs_names == tuple(data.obs_names)
    np.testing.assert_array_equal(np.flatnonzero(cells.is_empty), [3, 10])
