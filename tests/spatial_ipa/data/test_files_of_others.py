"""Files as people have them: each was reported to a neighbouring tool, and is rebuilt small.

Spots beside the tissue: almaan/stereoscope#23, scverse/spatialdata-io#104.  Row numbers for names:
mojaveazure/seurat-disk#115, #123.  Antibodies: satijalab/seurat#9182.  Expected counts:
dcjones/proseg#62, constantAmateur/SoupX#63.  Full grids: scverse/spatialdata-io#95.  X that is
null: scverse/anndataR#302, #304.  Positions in obs: STOmics/SAW#48, jianhuupenn/TESLA#8.  Filler
positions: scverse/spatialdata#387.  Plugins: OmicsML/CellPLM#7, scverse/anndata#828.  Locks:
theislab/zellkonverter#13, STOmics/SAW#28.  Stores: nf-core/spatialxe#11, scverse/spatialdata-io#47.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from tissue_sections import GENES, SPOTS, section

from common.errors import MissingPackage
from spatial_ipa.data import filters
from spatial_ipa.data.anndata_file import read_anndata, write_prediction
from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.read import read_slide, read_slides, slide_files
from spatial_ipa.data.run import read_run
from spatial_ipa.data.slide import Slide
from spatial_ipa.data.split import Split
from spatial_ipa.data.values import judge_values


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


def expected(seed: int, largest: float) -> ad.AnnData:
    """Expected counts with decimals, none of which reaches 20 but perhaps one."""
    data, rng = section(seed), np.random.default_rng(seed + 70)
    data.X.data = np.minimum(data.X.data, 18) + rng.uniform(-0.3, 0.3, data.X.nnz)
    data.X.data[data.X.data.argmax()] = largest
    return data


@pytest.mark.filterwarnings("ignore:.*X is taken as")
@pytest.mark.parametrize("largest", [17.0, 19.9, 25.4, 400.0])
def test_no_single_value_decides_what_a_matrix_holds(largest: float) -> None:
    assert not Slide.from_anndata(expected(0, largest)).is_logged
    logged = section(1)
    logged.X = np.log1p(scaled(logged.X.toarray(), 1e4))
    logged.X[0, 0] = largest
    assert Slide.from_anndata(logged).is_logged


def scaled(x: np.ndarray, depth: float) -> np.ndarray:
    return depth * x / x.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("change", "logged"),
    [
        (lambda x: np.log1p(scaled(x, 1e4)), True),
        (lambda x: np.log2(1 + scaled(x, 1e6)), True),
        (lambda x: np.log1p(scaled(x, 1e4))[:, ::5], True),
        (lambda x: np.log1p(x), True),
        (lambda x: np.log1p(scaled(x / np.linspace(1, 5, x.shape[1]), 1e6)), True),
        (lambda x: scaled(x, 1e4), False),
        (lambda x: x * 0.25, False),
        (lambda x: np.maximum(x - 0.1 * x.mean(axis=0), 0), False),
        (lambda x: x * np.random.default_rng(0).uniform(0.5, 1, x.shape), False),
        (lambda x: np.where(x > 0, np.random.default_rng(0).gamma(np.maximum(x, 0.1)), 0), False),
    ],
    ids=["log CP10k", "log2 CPM", "some genes of log CP10k", "log1p", "log TPM",
         "CP10k", "quarters", "ambient removed", "expected", "gamma"],
)  # fmt: skip
def test_counts_and_logarithms_are_told_apart(
    change: Callable[[np.ndarray], np.ndarray], logged: bool
) -> None:
    for seed in range(3):
        values = change(section(seed).X.toarray().astype(np.float64))
        assert judge_values(sp.csr_matrix(values.astype(np.float32))).logged is logged


@pytest.mark.filterwarnings("ignore:.*X is taken as")
def test_one_run_does_not_mix_counts_and_logarithms(tmp_path: Path) -> None:
    for seed in range(2):
        expected(seed, 19.0 + 6 * seed).write_h5ad(tmp_path / f"decimals{seed}.h5ad")
    logged = section(2)
    logged.X = np.log1p(scaled(logged.X.toarray(), 1e4))
    logged.write_h5ad(tmp_path / "logged.h5ad")
    assert [s.is_logged for s in read_slides(sorted(tmp_path.glob("dec*")))] == [False, False]
    message = r"mixes counts \(decimals0, decimals1\) and log-normalised values \(logged\)"
    with pytest.raises(ValueError, match=message):
        read_slides(tmp_path)
    files = [str(path) for path in sorted(tmp_path.glob("dec*"))]
    with pytest.raises(ValueError, match=message):
        read_run(files, scrna=str(tmp_path / "logged.h5ad"))
    stated = SlideKeys(values="logged")
    read = read_run(files, scrna=str(tmp_path / "logged.h5ad"), scrna_keys=stated)
    assert [s.is_logged for s in (*read.train, *read.samples)] == [False, False, True]
    assert all(s.is_logged for s in read_slides(tmp_path, stated))


@pytest.mark.parametrize("angle", [0.0, 0.4])
def test_samples_may_fill_the_same_grid(angle: float) -> None:
    cos, sin = np.cos(angle), np.sin(angle)
    grid = np.stack(np.divmod(np.arange(144), 12), axis=1) @ np.array([[cos, sin], [-sin, cos]])
    a, b = (Slide.from_anndata(section(i, 80 * grid - 400), name=str(i)) for i in range(2))
    assert a.xy_hash == b.xy_hash
    Split.declare([a], [b])
    again = section(0, 80 * grid - 400)
    again.X = np.log1p(scaled(again.X.toarray(), 1e4))
    with pytest.warns(UserWarning, match="log-normalised"):
        copy = Slide.from_anndata(again, name="copy")
    with pytest.raises(ValueError, match="same coordinates as '0'"):
        Split.declare([a], [copy])


def test_companions_of_files_are_passed_over(tmp_path: Path) -> None:
    section(0).write_h5ad(tmp_path / "A.h5ad")
    (tmp_path / "._A.h5ad").write_bytes(b"\x00\x05\x16\x07" + bytes(100))
    assert slide_files(tmp_path) == slide_files(str(tmp_path / "*.h5ad")) == [tmp_path / "A.h5ad"]
    assert slide_files(str(tmp_path / "*A.h5ad")) == [tmp_path / "A.h5ad"]
    with pytest.raises(ValueError, match="AppleDouble companion"):
        read_slide(tmp_path / "._A.h5ad")


def test_x_that_is_null_is_no_x(tmp_path: Path) -> None:
    data = section(0)
    data.layers["counts"] = data.X
    data.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        del file["X"]
        file.create_dataset("X", data=h5py.Empty("f")).attrs["encoding-type"] = "null"
    with pytest.raises(ValueError, match=r"has no X; other values of layer: counts$"):
        read_slide(tmp_path / "a.h5ad")
    assert len(read_slide(tmp_path / "a.h5ad", SlideKeys(layer="counts"))) == SPOTS


@pytest.mark.parametrize(
    "pair",
    ["x_centroid,y_centroid", "pxl_col_in_fullres,pxl_row_in_fullres", "array_col,array_row",
     "center_x,center_y", "x,y", "CenterX_global_px,CenterY_global_px", "imagecol,imagerow"],
)  # fmt: skip
def test_positions_may_be_columns_of_obs(pair: str, tmp_path: Path) -> None:
    data = section(0)
    data.obs[pair.split(",")] = data.obsm.pop("spatial")
    data.obs["volume"] = 1.5
    data.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(ValueError, match=f"missing .*obs has {pair}: take them with spatial_key"):
        read_slide(tmp_path / "a.h5ad")
    slide = read_slide(tmp_path / "a.h5ad", SlideKeys(spatial_key=pair))
    assert slide.content_hash == Slide.from_anndata(section(0)).content_hash
    with pytest.raises(ValueError, match="obs has no column 'left' and no column 'up'"):
        read_slide(tmp_path / "a.h5ad", SlideKeys(spatial_key="left, up"))


@pytest.mark.parametrize("version", [2, 3])
def test_zarr_stores_are_read_and_placed(version: int, tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    data = section(0)
    with ad.settings.override(zarr_write_format=version), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.write_zarr(tmp_path / "a.zarr")
        data.write_zarr(tmp_path / "sd.zarr" / "tables" / "cells")
        data.write_zarr(tmp_path / "two.zarr" / "tables" / "one")
        data.write_zarr(tmp_path / "two.zarr" / "tables" / "two")
    import zarr

    for store in ("sd", "two"):
        for group in (tmp_path / f"{store}.zarr", tmp_path / f"{store}.zarr" / "tables"):
            zarr.open_group(str(group), mode="a", zarr_format=version)
    wanted = Slide.from_anndata(section(0)).content_hash
    for path in ("a.zarr", "sd.zarr", "two.zarr/tables/two"):
        assert read_slide(tmp_path / path).content_hash == wanted
        assert read_anndata(tmp_path / path).shape == (SPOTS, GENES)
    with pytest.raises(ValueError, match=r"SpatialData with 2 tables; .*two\.zarr/tables/one"):
        read_slide(tmp_path / "two.zarr")
    assert [path.name for path in slide_files([tmp_path / "a.zarr"])] == ["a.zarr"]
    assert [path.name for path in slide_files(tmp_path)] == ["a.zarr", "sd.zarr", "two.zarr"]
    out = write_prediction(
        tmp_path / "a.zarr", tmp_path / "out.h5ad", obs={"spatial_ipa_radius": np.ones(SPOTS)}
    )
    assert ad.read_h5ad(out).obs["spatial_ipa_radius"].sum() == SPOTS


def test_stores_without_cells_say_how_to_make_a_file(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    for group in (tmp_path / "a.zarr", tmp_path / "a.zarr/tables/table"):
        group.mkdir(parents=True)
        (group / ".zgroup").write_text('{"zarr_format": 2}')
    (tmp_path / "a.zarr/tables/.zgroup").write_text('{"zarr_format": 2}')
    message = r"zarr store, .*spatialdata\.read_zarr\('.*a\.zarr'\)\.tables\['table'\]\.write_h5ad"
    with pytest.raises(ValueError, match=message):
        read_slide(tmp_path / "a.zarr")


def test_filler_positions_are_refused_or_dropped() -> None:
    data = section(0)
    data.obsm["spatial"][::10] = 0.0
    with pytest.raises(ValueError, match=r"15 of 150 spots .* 15 of them at \(0, 0\).*drop_coinc"):
        Slide.from_anndata(data)
    with pytest.warns(UserWarning, match="left out 15 of 150 spots that share their position"):
        slide = Slide.from_anndata(data, SlideKeys(drop_coincident=True))
    np.testing.assert_array_equal(slide.rows, np.flatnonzero(np.arange(SPOTS) % 10))
    data = section(0)
    data.obsm["spatial"][1] = data.obsm["spatial"][0]  # a pair is an accident
    assert len(Slide.from_anndata(data)) == SPOTS


def test_a_missing_plugin_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "find_spec", lambda name: None)
    data = section(0)
    data.X = data.X.toarray()
    data.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        attributes = dict(file["X"].attrs)
        del file["X"]
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_chunk(data.shape)
        made.set_filter(32099, h5py.h5z.FLAG_OPTIONAL, (3,))  # of no registered filter
        space = h5py.h5s.create_simple(data.shape)
        x = h5py.h5d.create(file.id, b"X", h5py.h5t.NATIVE_FLOAT, space, made)
        x.write_direct_chunk((0, 0), bytes(4000), 0)
        file["X"].attrs.update(attributes)
    for read in (read_slide, read_anndata):
        with pytest.raises(
            MissingPackage, match=r"X is compressed .* 32099.*pip install hdf5plugin"
        ):
            read(tmp_path / "a.h5ad")


def test_a_file_open_for_writing_is_said_to_be_so(tmp_path: Path) -> None:
    path = tmp_path / "a.h5ad"
    section(0).write_h5ad(path)
    hold = "import h5py, sys; f = h5py.File(sys.argv[1], 'r+'); print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(ValueError, match=r"open for writing elsewhere.*HDF5_USE_FILE_LOCKING"):
            read_slide(path)
        process.communicate(b"\n")
    assert len(read_slide(path)) == SPOTS


def test_a_file_that_may_not_be_read_is_said_to_be_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section(0).write_h5ad(tmp_path / "a.h5ad")
    (tmp_path / "a.h5ad").chmod(0)
    if os.geteuid() == 0:  # to whom nothing is forbidden

        def forbidden(path: Path, mode: str = "r") -> object:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(ValueError, match=r"a\.h5ad: may not be read by this user \(Permission den"):
        read_slide(tmp_path / "a.h5ad")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        (b"\x1f\x8b\x08\x00", "compressed with gzip"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"PK\x03\x04", "a zip archive"),
    ],
)
def test_what_is_no_hdf5_is_called_by_name(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.h5ad").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.h5ad: not an \.h5ad file .*{message}"):
        read_slide(tmp_path / "a.h5ad")


def test_modalities_of_mudata_are_to_be_saved_apart(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5mu", "w") as file:
        for group in ("mod/rna", "obs", "var"):
            file.create_group(group)
    with pytest.raises(ValueError, match=r"found mod, obs, var.*save one modality, mdata\['rna'\]"):
        read_slide(tmp_path / "a.h5mu")


def test_a_third_coordinate_that_is_the_same_for_all_is_left_out() -> None:
    data = section(0)
    plain = Slide.from_anndata(data)
    data.obsm["spatial"] = np.c_[data.obsm["spatial"], np.full(SPOTS, 7.0)]
    with pytest.warns(UserWarning, match="coordinate 3 of 3 is the same for all"):
        assert Slide.from_anndata(data).content_hash == plain.content_hash
