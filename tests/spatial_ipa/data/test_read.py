"""Reading slides: what is refused, with which words, and what is the same whatever its storage."""

from __future__ import annotations

import os
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

from spatial_ipa.data.h5ad import earlier_prediction, write_prediction
from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.panels import gene_panel, reindex
from spatial_ipa.data.read import read_slide, read_slides

N, G = 60, 30


def make(seed: int = 0) -> ad.AnnData:
    """60 spots on a grid, 30 genes, no empty spot."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(2.0, (N, G)) + (np.arange(G) == 0)
    obs = {"obs_names": [f"spot{i}" for i in range(N)], "patient": ["P1"] * N}
    data = ad.AnnData(
        sp.csr_matrix(counts.astype(np.int32)),
        obs=obs,
        var={"var_names": [f"G{g}" for g in range(G)]},
    )
    grid = np.stack(np.divmod(np.arange(N), 8), axis=1)
    data.obsm["spatial"] = grid.astype(np.float64)
    return data


def save(data: ad.AnnData, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*names are not unique.*")
        data.write_h5ad(path)
    return path


def dense(data: ad.AnnData) -> np.ndarray:
    return data.X.toarray().astype(np.float64)


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
    ("two images", two_images, r"holds 2 sections \(a, b\)"),
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


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def to_text(path: Path) -> None:
    path.write_text("gene,spot,count\n")


def to_10x(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("matrix")


def scramble_indices(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["X/indices"][5] = 10_000


def drop_a_gene_name(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        names = file["var/_index"][:-1]
        attributes = dict(file["var/_index"].attrs)
        del file["var/_index"]
        file["var"].create_dataset("_index", data=names, dtype=h5py.string_dtype())
        file["var/_index"].attrs.update(attributes)


def shorten_coordinates(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        attributes = dict(file["obsm/spatial"].attrs)
        xy = file["obsm/spatial"][:-1]
        del file["obsm/spatial"]
        file["obsm/spatial"] = xy
        file["obsm/spatial"].attrs.update(attributes)


def unknown_encoding(key: str) -> Callable[[Path], None]:
    """A maker of what a future anndata may write."""

    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file[key].attrs["encoding-type"] = "of-the-future"

    return change


def remove_pointer(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["X/indptr"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "truncated or damaged"),
        (unknown_encoding("obsm/spatial"), "written by a newer anndata than"),
        (to_text, "not an .h5ad file"),
        (to_10x, r"needs obs and var, found matrix"),
        (scramble_indices, "is damaged|truncated, damaged"),
        (drop_a_gene_name, "60 obs_names and 29 var_names"),
        (shorten_coordinates, r"shape \(60, 2\), got \(59, 2\)"),
        (remove_pointer, "truncated, damaged"),
    ],
)
def test_unreadable_files_are_refused_by_name(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    path = save(make(), tmp_path / "slide_x.h5ad")
    damage(path)
    with pytest.raises(ValueError, match=message) as caught:
        read_slide(path, require_spatial=True)
    assert "slide_x.h5ad" in str(caught.value)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    """No prefix of a file is taken for a slide, wherever it ends."""
    whole = save(make(), tmp_path / "whole.h5ad").read_bytes()
    path = tmp_path / "part.h5ad"
    for end in range(0, len(whole), len(whole) // 25):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"part\.h5ad"):
            read_slide(path, require_spatial=True)


def test_missing_files_layers_and_folders(tmp_path: Path) -> None:
    path = save(make(), tmp_path / "a.h5ad")
    with pytest.raises(FileNotFoundError, match=r"b\.h5ad: no such file"):
        read_slide(tmp_path / "b.h5ad", require_spatial=True)
    with pytest.raises(ValueError, match=r"not an \.h5ad file"):
        read_slide(tmp_path, require_spatial=True)
    with pytest.raises(ValueError, match=r"has no layers\['counts'\]; other values of layer: X$"):
        read_slide(path, SlideKeys(layer="counts"), require_spatial=True)
    with pytest.raises(ValueError, match=r"has no raw\.X; other values of layer: X$"):
        read_slide(path, SlideKeys(layer="raw.X"), require_spatial=True)


def test_counts_kept_in_raw(tmp_path: Path) -> None:
    """The usual state after clustering: X scaled and cut to some genes, ``raw`` with all counts."""
    counts = make()
    scaled = counts[:, :7].copy()
    scaled.X = dense(scaled) - dense(scaled).mean(0)
    scaled.raw = counts
    scaled.layers["log"] = np.log1p(dense(counts[:, :7]))
    path = save(scaled, tmp_path / "clustered.h5ad")
    with pytest.raises(ValueError, match=r"X has negative .*other values of layer: raw\.X, log\)"):
        read_slide(path, require_spatial=True)
    with pytest.warns(UserWarning, match=r"log-normalised.*other values of layer: X, raw\.X$"):
        read_slide(path, SlideKeys(layer="log"), require_spatial=True)
    slide = read_slide(path, SlideKeys(layer="raw.X"), require_spatial=True)
    reference = read_slide(save(counts, tmp_path / "plain.h5ad"), require_spatial=True)
    assert slide.content_hash == reference.content_hash
    assert slide.genes == tuple(counts.var_names)


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
    "store",
    [
        lambda x: sp.csr_matrix(x.astype(np.uint16)),
        lambda x: sp.csr_matrix(x.astype(np.int64)),
        lambda x: sp.csr_matrix(x.astype(np.float32)),
        lambda x: sp.csc_matrix(x.astype(np.int32)),
        lambda x: sp.csc_matrix(x),
        lambda x: x.astype(np.int8),
        lambda x: x.astype(np.float64),
    ],
    ids=["csr-u16", "csr-i64", "csr-f32", "csc-i32", "csc-f64", "dense-i8", "dense-f64"],
)
def test_storage_does_not_matter(tmp_path: Path, store: Callable[[np.ndarray], object]) -> None:
    reference = read_slide(save(make(), tmp_path / "a.h5ad"), require_spatial=True)
    data = make()
    data.layers["other"] = store(dense(data))
    data.X = store(dense(data))
    path = save(data, tmp_path / "b.h5ad")
    for layer in (None, "X", "other"):
        slide = read_slide(path, SlideKeys(layer=layer), require_spatial=True)
        assert slide.content_hash == reference.content_hash
        assert slide.counts.dtype == np.float32
        assert (slide.counts != reference.counts).nnz == 0


def test_slide_holds_what_the_file_holds(tmp_path: Path) -> None:
    data = make()
    slide = read_slide(save(data, tmp_path / "name.h5ad"), require_spatial=True)
    assert (slide.name, slide.patient, slide.is_logged, len(slide)) == ("name", "P1", False, N)
    assert slide.genes == tuple(data.var_names)
    assert slide.obs_names == tuple(data.obs_names)
    np.testing.assert_array_equal(slide.counts.toarray(), dense(data))
    np.testing.assert_array_equal(slide.xy, data.obsm["spatial"])


def test_hashes_tell_expression_from_position(tmp_path: Path) -> None:
    data = make()
    before = read_slide(save(data, tmp_path / "a.h5ad"), require_spatial=True)
    data.obsm["spatial"][0] += 0.5
    moved = read_slide(save(data, tmp_path / "a.h5ad"), require_spatial=True)
    assert moved.expression_hash == before.expression_hash
    assert moved.xy_hash != before.xy_hash
    assert moved.content_hash != before.content_hash
    data = rename("other")(make())
    renamed = read_slide(save(data, tmp_path / "a.h5ad"), require_spatial=True)
    assert renamed.expression_hash != before.expression_hash
    assert renamed.xy_hash == before.xy_hash


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
    said = pytest.warns(UserWarning, match="X is taken as log-normalised.*round them")
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


def test_prediction_never_looks_at_coordinates(tmp_path: Path) -> None:
    """Broken coordinates do not matter, and none are returned."""
    path = save(set_xy(lambda xy: xy * np.nan)(make()), tmp_path / "a.h5ad")
    assert read_slide(path, require_spatial=False).xy is None


def test_read_slides_takes_files_folders_and_patterns(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for name in ("b", "a") if folder == "one" else ("c",):
            save(make(), tmp_path / folder / f"{name}.h5ad")
    save(make(), tmp_path / "two" / "a.h5ad")
    by_folder = read_slides([tmp_path / "one"])
    assert [slide.name for slide in by_folder] == ["a", "b"]
    mixed = read_slides([tmp_path / "two" / "c.h5ad", str(tmp_path / "one" / "[b].h5ad")])
    assert [slide.name for slide in mixed] == ["c", "b"]
    assert [s.name for s in read_slides([tmp_path / "one", tmp_path / "two"])] == [
        "one/a", "b", "two/a", "c",
    ]  # fmt: skip
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match=r"none: no such file, or no \.h5ad file there"):
        read_slides([tmp_path / "none"])
    with pytest.raises(ValueError, match="given twice"):
        read_slides([tmp_path / "one", tmp_path / "one" / "a.h5ad"])
    with pytest.raises(ValueError, match="must be a list"):
        read_slides(str(tmp_path / "one"))
    with pytest.raises(FileNotFoundError, match="paths is empty"):
        read_slides([])


def predict(path_in: Path, path_out: Path, **fields: object) -> Path:
    return write_prediction(path_in, path_out, **fields)  # type: ignore[arg-type]


def test_prediction_is_added_and_all_else_kept(tmp_path: Path) -> None:
    data = make()
    data.uns["note"] = {"a": 1}
    data.layers["raw"] = data.X.copy()
    path_in = save(data, tmp_path / "in.h5ad")
    before = path_in.read_bytes()
    rng = np.random.default_rng(1)
    xy, spread = rng.normal(size=(N, 2)).astype(np.float32), rng.random(N)
    graph = sp.random(N, N, density=0.1, random_state=rng)
    path_out = write_prediction(
        path_in,
        tmp_path / "out.h5ad",
        obsm={"X_spatial_ipa": xy},
        obs={"spread": spread, "empty": spread > 0.5},
        obsp={"gate": graph},
        uns={"spatial_ipa": {"draws": 4}},
    )
    assert path_in.read_bytes() == before
    out = ad.read_h5ad(path_out)
    np.testing.assert_array_equal(out.obsm["X_spatial_ipa"], xy)
    assert out.obsm["X_spatial_ipa"].dtype == np.float32
    np.testing.assert_array_equal(out.obs["spread"], spread)
    np.testing.assert_array_equal(out.obs["empty"], spread > 0.5)
    np.testing.assert_array_equal(out.obsp["gate"].toarray(), graph.toarray())
    assert out.uns["spatial_ipa"]["draws"] == 4
    assert out.uns["note"]["a"] == 1
    assert list(out.obs["patient"]) == ["P1"] * N
    np.testing.assert_array_equal(out.X.toarray(), dense(data))
    np.testing.assert_array_equal(out.layers["raw"].toarray(), dense(data))
    np.testing.assert_array_equal(out.obsm["spatial"], data.obsm["spatial"])
    again = read_slide(path_out, require_spatial=True)
    assert again.content_hash == read_slide(path_in, require_spatial=True).content_hash
    assert sorted(tmp_path.iterdir()) == [path_in, path_out]


def as_anndata_0_7(path: Path) -> None:
    """The layout of data frames before anndata 0.8: codes here, categories in a group beside."""
    with h5py.File(path, "r+") as file:
        frame = file["obs"]
        codes, categories = frame["patient/codes"][:], frame["patient/categories"][:]
        del frame["patient"]
        frame["patient"] = codes
        frame["__categories/patient"] = categories.astype(h5py.string_dtype())
        frame["patient"].attrs["categories"] = frame["__categories/patient"].ref
        frame.attrs["encoding-version"] = "0.1.0"


@pytest.mark.filterwarnings("ignore:.*was written without encoding metadata")
def test_files_of_anndata_0_7(tmp_path: Path) -> None:
    data = make()
    data.obs["patient"] = data.obs["patient"].astype("category")
    path_in = save(data, tmp_path / "in.h5ad")
    as_anndata_0_7(path_in)
    assert read_slide(path_in, require_spatial=True).patient == "P1"
    out = predict(path_in, tmp_path / "out.h5ad", obs={"spatial_ipa_radius": np.arange(N)})
    read = ad.read_h5ad(out)
    assert list(read.obs["patient"]) == ["P1"] * N
    np.testing.assert_array_equal(read.obs["spatial_ipa_radius"], np.arange(N))


def test_columns_of_obs_that_are_not_needed_may_be_anything(tmp_path: Path) -> None:
    """A nullable string column, which anndata reads but does not write, and an unknown encoding."""
    data = make()
    data.obs["kind"] = [f"kind {i}" for i in range(N)]
    data.obs["odd"] = np.arange(N)
    data.obs["kind"] = data.obs["kind"].astype("string")
    with ad.settings.override(allow_write_nullable_strings=True):
        path_in = save(data, tmp_path / "in.h5ad")
    with h5py.File(path_in, "r+") as file:
        assert file["obs/kind"].attrs["encoding-type"] == "nullable-string-array"
        file["obs/odd"].attrs["encoding-type"] = "of-the-future"
    slide = read_slide(path_in, require_spatial=True)
    assert (len(slide), slide.patient) == (N, "P1")
    first = predict(path_in, tmp_path / "first.h5ad", obs={"spatial_ipa_radius": np.ones(N)})
    second = predict(
        first, tmp_path / "second.h5ad", obs={"spatial_ipa_abstain": np.ones(N)}, overwrite=True
    )
    with h5py.File(path_in) as before, h5py.File(first) as once, h5py.File(second) as twice:
        columns = list(before["obs"].attrs["column-order"])
        assert list(once["obs"].attrs["column-order"]) == [*columns, "spatial_ipa_radius"]
        assert list(twice["obs"].attrs["column-order"]) == [*columns, "spatial_ipa_abstain"]
        for file in (once, twice):
            np.testing.assert_array_equal(file["obs/odd"][:], np.arange(N))
            assert file["obs/odd"].attrs["encoding-type"] == "of-the-future"


def test_outputs_are_never_overwritten_unasked(tmp_path: Path) -> None:
    path_in, path_out = save(make(), tmp_path / "in.h5ad"), tmp_path / "out.h5ad"
    xy = np.zeros((N, 2))
    predict(path_in, path_out, obsm={"p": xy})
    with pytest.raises(FileExistsError, match=r"out\.h5ad exists"):
        predict(path_in, path_out, obsm={"p": xy})
    predict(path_in, path_out, obsm={"p": xy + 1}, overwrite=True)
    np.testing.assert_array_equal(ad.read_h5ad(path_out).obsm["p"], xy + 1)
    (tmp_path / "link.h5ad").symlink_to(path_in)
    for same in (path_in, tmp_path / "link.h5ad"):
        with pytest.raises(ValueError, match="path_out is the input file"):
            predict(path_in, same, obsm={"p": xy}, overwrite=True)
    with pytest.raises(ValueError, match=r"obsm\['spatial'\] exists already"):
        predict(path_in, tmp_path / "new.h5ad", obsm={"spatial": xy})
    with pytest.raises(ValueError, match=r"obs\['patient'\] exists already"):
        predict(path_in, tmp_path / "new.h5ad", obs={"patient": np.zeros(N)})
    with pytest.raises(FileNotFoundError, match="of path_out does not exist"):
        predict(path_in, tmp_path / "no" / "new.h5ad", obsm={"p": xy})
    assert not (tmp_path / "new.h5ad").exists()


def test_no_field_of_an_earlier_prediction_is_left_beside_a_new_one(tmp_path: Path) -> None:
    data = make()
    fields = {
        "obsm": {"X_spatial_ipa": np.zeros((N, 2))},
        "obs": {"spatial_ipa_radius": np.ones(N), "spatial_ipa_abstain": np.ones(N, bool)},
        "obsp": {"spatial_ipa_gate": sp.eye(N)},
        "uns": {"spatial_ipa": {"num_draws": 4}},
    }
    path_in = save(data, tmp_path / "in.h5ad")
    assert earlier_prediction(path_in) == []
    first = predict(path_in, tmp_path / "first.h5ad", **fields)
    assert earlier_prediction(first) == [
        "obsm['X_spatial_ipa']", "obs['spatial_ipa_abstain']", "obs['spatial_ipa_radius']",
        "obsp['spatial_ipa_gate']", "uns['spatial_ipa']",
    ]  # fmt: skip
    new = {"obsm": {"X_spatial_ipa": np.ones((N, 2))}}
    with pytest.raises(ValueError, match="exists already"):
        predict(first, tmp_path / "second.h5ad", **new)
    second = predict(first, tmp_path / "second.h5ad", overwrite=True, **new)
    assert earlier_prediction(second) == ["obsm['X_spatial_ipa']"]
    read = ad.read_h5ad(second)
    assert (read.obsm["X_spatial_ipa"] == 1).all()
    assert list(read.obs.columns) == list(data.obs.columns)
    np.testing.assert_array_equal(read.obsm["spatial"], data.obsm["spatial"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"obsm": {"p": np.zeros((N - 1, 2))}}, r"obsm\['p'\] must start with shape \(60,\)"),
        ({"obs": {"q": np.zeros(3)}}, r"obs\['q'\] must start with shape \(60,\), got \(3,\)"),
        ({"obsp": {"g": sp.eye(5)}}, r"obsp\['g'\] must start with shape \(60, 60\)"),
    ],
)
def test_a_failed_write_leaves_nothing(
    tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    path_in, path_out = save(make(), tmp_path / "in.h5ad"), tmp_path / "out.h5ad"
    with pytest.raises(ValueError, match=message):
        predict(path_in, path_out, **fields)
    path_out.write_text("older result")
    with pytest.raises(ValueError, match=message):
        predict(path_in, path_out, overwrite=True, **fields)
    assert path_out.read_text() == "older result"
    assert sorted(tmp_path.iterdir()) == [path_in, path_out]


def real(*parts: str) -> Path:
    default = Path(__file__).parents[4] / "shared" / "data"
    path = Path(os.environ.get("EDGEWISE_DATA", default)).joinpath("st", *parts)
    if not path.exists():
        pytest.skip(f"real data {'/'.join(parts)} not present; set EDGEWISE_DATA")
    return path


def test_real_slides_and_their_panel() -> None:
    """Sizes and overlaps are those in the data's own description."""
    slides = read_slides([real("her2st", "A1.h5ad"), real("her2st", "B1.h5ad")])
    assert [slide.patient for slide in slides] == ["A", "B"]
    assert len(slides[0]) == 346
    panel = gene_panel(slides)
    assert len(panel) == 17_564
    cells = read_slide(real("scrna_breast", "CID4465.h5ad"), require_spatial=False)
    assert cells.counts.shape == (1_564, 13_744)
    assert not cells.is_logged
    counts, missing = reindex(cells, panel)
    assert len(panel) - len(missing) == len(gene_panel([slides[0], cells])) == 12_542
    assert counts.shape == (1_564, 17_564)


def test_real_panels_of_imaging_and_sequencing() -> None:
    slide = read_slide(real("merfish_hypothalamus", "A1_bregma_m0.29.h5ad"), require_spatial=True)
    cells = read_slide(real("scrna_hypothalamus", "romanov_neurons.h5ad"), require_spatial=False)
    assert len(slide.genes) == 135
    assert len(gene_panel([slide, cells])) == 131
