"""Slides from files."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from slide_files import N, dense, make, save

from spatial_ipa.data.anndata_file import write_prediction
from spatial_ipa.data.formats import READERS
from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.panels import gene_panel, reindex
from spatial_ipa.data.read import read_slide, read_slides


def set_xy(change: Callable[[np.ndarray], object]) -> Callable[[ad.AnnData], ad.AnnData]:
    def apply(data: ad.AnnData) -> ad.AnnData:
        data.obsm["spatial"] = change(np.array(data.obsm["spatial"]))
        return data

    return apply


def rename(*genes: str) -> Callable[[ad.AnnData], ad.AnnData]:
    def apply(data: ad.AnnData) -> ad.AnnData:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Variable names are not unique")
            data.var_names = [*genes, *data.var_names[len(genes) :]]
        return data

    return apply


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
    with pytest.warns(UserWarning, match=r"log-normalised.*other values of layer: X, raw\.X\)"):
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
    formats = re.escape(" or ".join(READERS))
    with pytest.raises(FileNotFoundError, match=f"none: no such file, or no {formats} file there"):
        read_slides([tmp_path / "none"])
    with pytest.raises(ValueError, match="given twice"):
        read_slides([tmp_path / "one", tmp_path / "one" / "a.h5ad"])
    assert [slide.name for slide in read_slides(str(tmp_path / "one"))] == ["a", "b"]
    with pytest.raises(FileNotFoundError, match="paths is empty"):
        read_slides([])


def predict(path_in: Path, path_out: Path, **fields: object) -> Path:
    return write_prediction(path_in, path_out, **fields)  # type: ignore[arg-type]


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
