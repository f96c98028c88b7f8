"""Sections in one file: found by the data, refused by name, split when told.

Joined sections: scverse/squidpy#318, #417, #588; regions of SpatialData: scverse/spatialdata#1025,
#414; images that were left over: BayraktarLab/cell2location#245, scverse/scanpy#1254.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from tissue_sections import SPOTS, joined, positions, section, turned

from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.overlap import (
    grid_spacing,
    lie_apart,
    neighbour_correlation,
    surrounded,
)
from spatial_ipa.data.read import as_slides, read_slide, read_slides
from spatial_ipa.data.slide import Slide


@pytest.mark.parametrize(
    "label",
    ["batch", "sample", "sample_id", "library_id", "fov", "SlideID", "donor_id", "puck", "foo"],
)
def test_joined_sections_are_refused_by_the_column_that_tells_them_apart(label: str) -> None:
    """The last is told by expression alone: its name says nothing."""
    with pytest.raises(ValueError, match=rf"3 sections \(S0, S1, S2\) by obs\['{label}'\]"):
        Slide.from_anndata(joined(label, index_unique=None))


def test_a_region_key_of_spatialdata_tells_regions_apart(tmp_path: Path) -> None:
    data = joined("cells_region", 2)
    data.uns["spatialdata_attrs"] = {"region": ["S0", "S1"], "region_key": "cells_region"}
    data.write_h5ad(tmp_path / "a.h5ad")
    message = r"2 sections \(S0, S1\) by obs\['cells_region'\].*section_key=cells_region"
    with pytest.raises(ValueError, match=message):
        read_slide(tmp_path / "a.h5ad")
    with pytest.raises(ValueError, match=message):
        Slide.from_anndata(data)


def test_ends_of_names_tell_sections_apart() -> None:
    data = joined("batch")
    del data.obs["batch"]
    with pytest.raises(ValueError, match="several sections: by the ends of obs_names"):
        Slide.from_anndata(data)


def test_names_that_repeat_tell_sections_apart() -> None:
    data = joined("batch")
    data.obs = pd.DataFrame(index=[f"AAAC{i % SPOTS}-1" for i in range(data.n_obs)])
    with pytest.raises(ValueError, match="several sections: by the repeats of obs_names"):
        Slide.from_anndata(data)


def test_fields_of_view_in_frames_of_their_own_have_a_common_one() -> None:
    data = section(0, positions(0, 400))
    x, y = ((data.obsm["spatial"] + [700, 500]) // 280).T
    data.obs["fov"] = (4 * x + y).astype(int)
    data.obs[["CenterX_global_px", "CenterY_global_px"]] = data.obsm["spatial"]
    data.obsm["spatial"] = (data.obsm["spatial"] + [700, 500]) % 280
    message = r"by obs\['fov'\]: .*spatial_key=CenterX_global_px,CenterY_global_px\)"
    with pytest.raises(ValueError, match=message):
        Slide.from_anndata(data)
    keys = SlideKeys(spatial_key="CenterX_global_px,CenterY_global_px")
    with pytest.warns(UserWarning, match="side by side, taken as one"):
        assert len(Slide.from_anndata(data, keys)) == 400


def test_sections_are_split_and_named(tmp_path: Path) -> None:
    data = joined("batch")
    data.write_h5ad(tmp_path / "all.h5ad")
    keys = SlideKeys(section_key="batch")
    slides = read_slides(tmp_path / "all.h5ad", keys)
    assert [slide.name for slide in slides] == ["all/S0", "all/S1", "all/S2"]
    for i, (slide, again) in enumerate(zip(slides, as_slides(data, keys, "mine"), strict=True)):
        alone = Slide.from_anndata(turned(section(i), 2.1 * i))
        assert slide.content_hash == alone.content_hash == again.content_hash
        np.testing.assert_array_equal(slide.rows, np.arange(SPOTS) + i * SPOTS)
        assert again.name == f"mine_0/S{i}"
    with pytest.raises(ValueError, match=r"all\.h5ad: 3 sections .* read them with read_slides"):
        read_slide(tmp_path / "all.h5ad", keys)


def test_sections_within_sections_need_both_columns() -> None:
    data = joined("sample", 4)
    data.obs["batch"] = np.repeat(["one", "two"], 2 * SPOTS)
    data.obs["sample"] = np.tile(np.repeat(["x", "y"], SPOTS), 2)
    with pytest.raises(ValueError, match=r"section one: holds 2 sections \(x, y\) by obs\['sampl"):
        as_slides(data, SlideKeys(section_key="batch"), "a")
    slides = as_slides(data, SlideKeys(section_key="batch,sample"), "a")
    assert [slide.name for slide in slides] == ["a_0/one x", "a_0/one y", "a_0/two x", "a_0/two y"]


def test_what_cannot_be_split_by_is_named() -> None:
    data = joined("batch")
    with pytest.raises(ValueError, match=r"no column 'section' to split by \(section_key\).*batch"):
        as_slides(data, SlideKeys(section_key="section"), "a")
    data.obs["gaps"] = pd.Categorical(data.obs["batch"]).rename_categories({"S0": "x"})
    data.obs.loc[data.obs_names[:2], "gaps"] = np.nan
    with pytest.raises(ValueError, match=r"2 rows have no value in obs\['gaps'\]"):
        as_slides(data, SlideKeys(section_key="gaps"), "a")
    few = data[: SPOTS + 20].copy()
    with pytest.warns(UserWarning, match=r"left out 1 of 2 sections .* fewer than 50 spots: S1"):
        assert len(as_slides(few, SlideKeys(section_key="batch"), "a")) == 1
    with pytest.raises(ValueError, match="none of the 2 sections"):
        as_slides(data[SPOTS - 20 : SPOTS + 20].copy(), SlideKeys(section_key="batch"), "a")


def test_sections_side_by_side_are_told_by_the_gaps_between_them() -> None:
    data = joined("sample", 2)
    data.obsm["spatial"][SPOTS:] += [3000.0, 0.0]
    with pytest.raises(ValueError, match=r"by obs\['sample'\]: they are clouds far apart"):
        Slide.from_anndata(data)
    data.obs["fov"] = data.obs.pop("sample")  # fields of view of one frame may leave gaps
    with pytest.warns(UserWarning, match=r"obs\['fov'\] has 2 values side by side, taken as one"):
        assert len(Slide.from_anndata(data)) == 2 * SPOTS


def visium(seed: int) -> ad.AnnData:
    """A section on a hexagonal array, its pixels turned and scaled by the microscope."""
    row, col = np.divmod(np.arange(14 * 12), 12)
    angle = 0.3 * seed
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    plane = np.stack([2 * col + row % 2, row * np.sqrt(3)], axis=1).astype(float)
    data = section(seed, (plane - plane.mean(axis=0)) @ turn * 40)
    data.obs["array_row"], data.obs["array_col"] = row, 2 * col + row % 2
    return data


def test_arrays_over_each_other_are_told_by_their_grids() -> None:
    """No column names them; array positions twice, then without array positions."""
    both = ad.concat([visium(0), visium(1)])
    both.obs_names = [f"spot{i}" for i in range(both.n_obs)]
    with pytest.raises(ValueError, match="several sections: 100% of the array positions occur mor"):
        Slide.from_anndata(both)
    both.obs["who"] = np.repeat(["me", "you"], both.n_obs // 2)
    with pytest.raises(ValueError, match=r"2 sections \(me, you\) by obs\['who'\].*once in each"):
        Slide.from_anndata(both)
    both.obs = both.obs[["who"]]
    with pytest.raises(ValueError, match=r"by obs\['who'\]: grids of spacing 80"):
        Slide.from_anndata(both)
    del both.obs["who"]
    with pytest.raises(ValueError, match="several sections: grids of spacing 80"):
        Slide.from_anndata(both)
    Slide.from_anndata(visium(1))


@pytest.mark.parametrize("rows", [90, 60])
def test_a_large_array_is_one_section(rows: int) -> None:
    """More spots than are looked at."""
    row, col = np.divmod(np.arange(rows * 90), 90)
    data = section(0, np.stack([col * 16.0, row * 16.0], axis=1) - 700)
    data.obs["array_row"], data.obs["array_col"] = row, col
    assert len(Slide.from_anndata(data)) == rows * 90


def celltypes(data: ad.AnnData) -> None:
    marker = np.asarray(data.X[:, 0].todense()).ravel()
    data.obs["cell_type"] = np.digitize(marker, np.quantile(marker, [0.3, 0.6])).astype(str)


def layers(data: ad.AnnData) -> None:
    data.obs["layer"] = np.digitize(data.obsm["spatial"][:, 0], [-200, 200]).astype(str)


def random_label(data: ad.AnnData) -> None:
    data.obs["who"] = np.random.default_rng(0).choice(["a", "b"], data.n_obs)


def tiles(data: ad.AnnData) -> None:
    x, y = (data.obsm["spatial"] // 400).T
    data.obs["fov"] = [f"{a:g},{b:g}" for a, b in zip(x, y, strict=True)]


def one_sample(data: ad.AnnData) -> None:
    data.obs["sample"] = pd.Categorical(["A"] * data.n_obs, categories=["A", "B"])


def images(data: ad.AnnData) -> None:
    one_sample(data)
    data.uns["spatial"] = {name: {"images": {}} for name in "ABCD"}


@pytest.mark.filterwarnings("ignore:.*side by side, taken as one")
@pytest.mark.parametrize("label", [celltypes, layers, random_label, tiles, one_sample, images])
def test_columns_that_are_no_sections_are_left_alone(label: Callable[[ad.AnnData], None]) -> None:
    for seed in range(3):
        data = section(seed, positions(seed, 400))
        label(data)
        assert len(Slide.from_anndata(data)) == data.n_obs


def test_images_that_nothing_else_tells_apart_are_mentioned() -> None:
    data = section(0)
    data.uns["spatial"] = {name: {"scalefactors": {}} for name in "AB"}
    with pytest.warns(UserWarning, match=r"images of 2 sections, .*: taken as one"):
        slide = Slide.from_anndata(data)
    assert len(slide) == SPOTS
    assert "images of 2 sections" in slide.notes[0]


def test_the_user_has_the_last_word() -> None:
    data = joined("batch")
    slide = Slide.from_anndata(data, SlideKeys(section_key="one"))
    assert len(slide) == 3 * SPOTS
    # Cells without coordinates are one sample.
    cells = Slide.from_anndata(data, SlideKeys(section_key="batch"), require_spatial=False)
    assert len(cells) == 3 * SPOTS


def test_measures_of_overlap() -> None:
    """On layouts whose answer is plain."""
    xy = positions(0, 300)
    halves, mixed = (xy[:, 0] > 0).astype(int), np.arange(300) % 2
    assert surrounded(xy, halves) < 0.15
    assert surrounded(xy, mixed) > 0.6
    assert surrounded(xy, np.zeros(300, dtype=int)) == 0
    assert not lie_apart(xy, halves)
    assert lie_apart(xy + 2000.0 * halves[:, None], halves)
    grid = np.stack(np.divmod(np.arange(400), 20), axis=1).astype(float)
    assert grid_spacing(grid) is None
    assert grid_spacing(xy) is None
    turn = np.array([[0.8, 0.6], [-0.6, 0.8]])
    spacing = grid_spacing(np.concatenate([grid, (grid - 9) @ turn + 9.3]))
    assert spacing == pytest.approx(1.0, rel=0.02)


def test_correlation_of_neighbours_against_a_loop() -> None:
    """Six nearest by brute force, group means taken out, one score."""
    rng = np.random.default_rng(0)
    xy, codes = rng.random((80, 2)), np.repeat([0, 1], 40)
    score = np.sin(4 * xy[:, 0]) * np.where(codes == 0, 1, -1) + codes
    z = score - np.array([score[codes == c].mean() for c in codes])
    z /= np.sqrt((z**2).mean())
    expected = []
    for same in (True, False):
        total, count = 0.0, 0
        for i in range(80):
            distance = np.linalg.norm(xy - xy[i], axis=1)
            own = np.flatnonzero((codes == codes[i]) & (np.arange(80) != i))
            other = np.flatnonzero(codes != codes[i])
            own = own[np.argsort(distance[own])[:6]]
            other = other[np.argsort(distance[other])[:6]]
            if distance[other[-1]] <= 1.5 * distance[own[-1]]:
                total += z[i] * z[own if same else other].mean()
                count += 1
        expected.append(total / count)
    found = neighbour_correlation(xy, codes, score[:, None])
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert found[0] > 0.3
    assert found[1] < 0


def test_no_warning_on_a_plain_section() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        slide = Slide.from_anndata(section(0))
    assert slide.notes == ()
