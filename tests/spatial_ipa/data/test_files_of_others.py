"""Files and stores as people have them: each was reported to a neighbouring tool.

Full grids: scverse/spatialdata-io#95.  X that is null: scverse/anndataR#302, #304.  Positions in
obs: STOmics/SAW#48, jianhuupenn/TESLA#8.  Filler positions: scverse/spatialdata#387.  Plugins:
OmicsML/CellPLM#7, scverse/anndata#828.  Locks: theislab/zellkonverter#13, STOmics/SAW#28.  Stores:
nf-core/spatialxe#11, scverse/spatialdata-io#47.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
from tissue_sections import GENES, SPOTS, section

from common.errors import MissingPackage
from spatial_ipa.data import filters
from spatial_ipa.data.anndata_file import read_anndata, write_prediction
from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.read import read_slide, slide_files
from spatial_ipa.data.slide import Slide
from spatial_ipa.data.split import Split


@pytest.mark.parametrize("angle", [0.0, 0.4])
def test_samples_may_fill_the_same_grid(angle: float) -> None:
    cos, sin = np.cos(angle), np.sin(angle)
    grid = np.stack(np.divmod(np.arange(144), 12), axis=1) @ np.array([[cos, sin], [-sin, cos]])
    a, b = (Slide.from_anndata(section(i, 80 * grid - 400), name=str(i)) for i in range(2))
    assert a.xy_hash == b.xy_hash
    Split.declare([a], [b])
    again = section(0, 80 * grid - 400)
    again.X = np.log1p(again.X.toarray())
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
