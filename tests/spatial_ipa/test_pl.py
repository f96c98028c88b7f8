"""Figures from AnnData: what is drawn of the fields of a placement, and what is refused."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

import spatial_ipa
from common.errors import UserError
from spatial_ipa.evaluation.plots.colours import position_colours
from spatial_ipa.evaluation.plots.layouts import rms_radius

COUNT = 60


@pytest.fixture
def placed() -> ad.AnnData:
    """60 cells, of which the first has no position and the last two are abstained from."""
    rng = np.random.default_rng(0)
    adata = ad.AnnData(np.ones((COUNT, 1), np.float32))
    adata.obsm["spatial"] = rng.random((COUNT, 2)) * 9
    xy = adata.obsm["spatial"] - 4.5 + rng.normal(size=(COUNT, 2))
    xy = xy / rms_radius(xy)
    xy[0] = np.nan
    adata.obsm["X_spatial_ipa"] = xy
    for name in ("uncertainty", "radius", "ambiguity"):
        adata.obs[f"spatial_ipa_{name}"] = rng.random(COUNT)
        adata.obs.iloc[0, -1] = np.nan
    adata.obs["spatial_ipa_abstain"] = np.arange(COUNT) >= COUNT - 2
    adata.obs["group"] = ["a", "b", "c"] * (COUNT // 3)
    adata.uns["spatial_ipa"] = {"calibration": {"coverage": 0.9, "scale": 0.5}}
    return adata


def titles(figure) -> list[str]:
    return [axis.get_title() for axis in figure.axes if axis.get_label() != "<colorbar>"]


def units(figure) -> list[str]:
    return [axis.get_ylabel() for axis in figure.axes if axis.get_label() == "<colorbar>"]


def test_layout_leaves_out_what_was_not_placed(placed: ad.AnnData) -> None:
    figure = spatial_ipa.pl.layout(placed)
    assert titles(figure) == ["placed cells, n = 59", "colour: true position"]
    drawn = figure.axes[0].collections[0]
    np.testing.assert_allclose(drawn.get_offsets(), placed.obsm["X_spatial_ipa"][1:])
    wanted = position_colours(placed.obsm["spatial"][1:])
    np.testing.assert_allclose(drawn.get_facecolor()[:, :3], wanted, atol=1e-6)
    del placed.obsm["spatial"]
    assert titles(spatial_ipa.pl.layout(placed)) == ["placed cells, n = 59"]


def test_layout_by_a_column(placed: ad.AnnData) -> None:
    axis = spatial_ipa.pl.layout(placed, "group").axes[0]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a", "b", "c"]
    assert [len(c.get_offsets()) for c in axis.collections] == [19, 20, 20]
    figure = spatial_ipa.pl.layout(placed, "spatial_ipa_ambiguity")
    assert units(figure) == ["spatial_ipa_ambiguity"]


def test_comparison_gives_radii_in_the_unit_of_the_tissue(placed: ad.AnnData) -> None:
    figure = spatial_ipa.pl.comparison(placed, name="B1", micrometres=200)
    assert figure.get_suptitle() == "B1"
    assert titles(figure)[0] == "true positions\nn = 59"
    assert titles(figure)[1].startswith("predicted\nSpearman 0.")
    assert titles(figure)[2] == "error radius that holds 90%\n× abstained: 2 of 59"
    assert units(figure) == ["mm"]
    kept = slice(1, COUNT - 2)
    radius = rms_radius(placed.obsm["spatial"][1:]) * 0.2  # mm
    wanted = 0.5 * radius * np.sort(np.asarray(placed.obs["spatial_ipa_radius"])[kept])
    np.testing.assert_allclose(figure.axes[2].collections[0].get_array(), wanted)
    assert units(spatial_ipa.pl.comparison(placed)) == ["RMS radii of the tissue"]


def test_comparison_without_radii_shows_the_spread(placed: ad.AnnData) -> None:
    del placed.obs["spatial_ipa_radius"]
    true = placed.obsm.pop("spatial")
    figure = spatial_ipa.pl.comparison(placed, true)
    assert titles(figure)[2] == "spread over draws"


def test_uncertainty_has_a_map_for_everything_known(placed: ad.AnnData) -> None:
    figure = spatial_ipa.pl.uncertainty(placed)
    assert titles(figure) == [
        "error radius that holds 90%\n× abstained: 2 of 59",
        "spread over draws",
        "ambiguity of expression",
    ]
    assert units(figure) == ["RMS radii of the layout"] * 2 + ["0: one place, 1: anywhere"]
    del placed.obs["spatial_ipa_radius"], placed.obs["spatial_ipa_ambiguity"]
    assert titles(spatial_ipa.pl.uncertainty(placed)) == ["spread over draws"]


def test_what_cannot_be_drawn_is_refused(placed: ad.AnnData) -> None:
    with pytest.raises(UserError, match=r"obs has no column 'x'; it has .*group"):
        spatial_ipa.pl.layout(placed, "x")
    with pytest.raises(UserError, match="obsm has no 'pixel': give the true coordinates"):
        spatial_ipa.pl.comparison(placed, spatial_key="pixel")
    with pytest.raises(UserError, match="true has 3 rows, adata has 60 cells"):
        spatial_ipa.pl.comparison(placed, np.zeros((3, 2)))
    with pytest.raises(UserError, match="micrometres must be positive, got 0"):
        spatial_ipa.pl.comparison(placed, micrometres=0)
    del placed.obsm["X_spatial_ipa"]
    for draw in (spatial_ipa.pl.layout, spatial_ipa.pl.comparison, spatial_ipa.pl.uncertainty):
        with pytest.raises(UserError, match="place the cells first"):
            draw(placed)
