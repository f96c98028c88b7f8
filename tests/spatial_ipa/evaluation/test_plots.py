"""Figures: superposition, colours, scale bar, number and content of panels, files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.spatial import procrustes
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr

from common.report.figures import save_figure
from spatial_ipa.confidence.identifiability import slide_identifiability
from spatial_ipa.evaluation.plots.colours import (
    CORNERS,
    category_colours,
    error_colours,
    plane_colours,
    position_colours,
)
from spatial_ipa.evaluation.plots.identifiability import identifiability_figure
from spatial_ipa.evaluation.plots.layouts import (
    CellMap,
    category_figure,
    layout_figure,
    map_figure,
    placed_figure,
    superpose,
)


def layout(n: int = 80, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, 2)) * [5.0, 2.0]


def moved(x: np.ndarray, mirror: float = 1.0) -> np.ndarray:
    c, s = math.cos(2.1), math.sin(2.1)
    return 7 * x @ np.array([[c, -s], [mirror * s, mirror * c]]).T + [100.0, -40.0]


def panels(figure: Figure) -> list[Axes]:
    return [axis for axis in figure.axes if axis.get_label() != "<colorbar>"]


def bars(axis: Axes) -> list[tuple[float, str]]:
    """Length in data units and label of the scale bars of a panel."""
    lines = [line for line in axis.lines if line.get_label() == "_scale bar"]
    return [
        (float(np.ptp(np.asarray(line.get_xdata()))), text.get_text())
        for line, text in zip(lines, axis.texts, strict=True)
    ]


@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_superpose_undoes_pose_and_scale(mirror: float) -> None:
    x = layout()
    fitted, target = superpose(moved(x, mirror), x)
    np.testing.assert_allclose(fitted, target, atol=1e-5)
    centred = x - x.mean(0)
    np.testing.assert_allclose(
        target, centred / np.sqrt((centred**2).sum(1).mean()), rtol=1e-5, atol=1e-5
    )


def test_superpose_does_not_depend_on_the_pose_of_the_prediction() -> None:
    x, noisy = layout(), layout() + 0.3 * np.random.default_rng(1).standard_normal((80, 2))
    first, again = superpose(noisy, x)[0], superpose(moved(noisy, -1.0), x)[0]
    np.testing.assert_allclose(first, again, atol=1e-4)


def test_superpose_takes_read_only_arrays_and_leaves_them() -> None:
    x, y = layout(), layout(seed=1)
    before = x.copy(), y.copy()
    x.flags.writeable = y.flags.writeable = False
    superpose(x, y)
    assert np.array_equal(x, before[0])
    assert np.array_equal(y, before[1])


def test_corners_of_the_tissue_have_the_corner_colours() -> None:
    corners = np.array(list(CORNERS), float)
    wanted = [[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in CORNERS.values()]
    np.testing.assert_allclose(position_colours(7 * corners - 3), wanted, atol=1e-6)


def test_colours_are_valid_whatever_the_coordinates() -> None:
    for xy in (layout(), layout()[:, ::-1] * 1e6 - 4, np.zeros((5, 2))):
        colours = position_colours(xy)
        assert colours.shape == (len(xy), 3)
        assert colours.min() >= 0
        assert colours.max() <= 1
    gap = layout()
    gap[3] = np.nan
    colours = position_colours(gap)
    assert len(set(colours[3])) == 1, "a cell without position is grey"
    np.testing.assert_allclose(np.delete(colours, 3, 0), position_colours(np.delete(gap, 3, 0)))


# Machado, Oliveira and Fernandes 2009 (IEEE TVCG 15, 1291-1298), severity 1, on linear RGB.
PROTANOPIA = [
    [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]  # fmt: skip
DEUTERANOPIA = [
    [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
]  # fmt: skip


def cielab(rgb: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """CIE 1976 L*a*b* (D65) of sRGB (n, 3) as an eye sees it that maps linear RGB by ``seen``."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = (linear @ seen.T).clip(0, 1)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    f = np.cbrt(linear @ to_xyz.T / [0.95047, 1.0, 1.08883])
    return np.stack(
        [116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1
    )


@pytest.mark.parametrize(
    "seen", [np.eye(3), PROTANOPIA, DEUTERANOPIA], ids=["usual", "protan", "deutan"]
)
def test_places_apart_look_different_to_every_eye(seen: list[list[float]]) -> None:
    """ΔE of 10 is told apart at a glance; places a third of the tissue apart have at least that."""
    side = np.linspace(0, 1, 13)
    uv = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    lab = cielab(plane_colours(uv), np.array(seen))
    apart = pdist(uv) > 1 / 3
    assert pdist(lab)[apart].min() > 10
    white = cielab(np.ones((1, 3)), np.array(seen))
    assert np.linalg.norm(lab - white, axis=1).min() > 20, "no place is lost on white"


def test_error_colours_get_darker_and_stay_visible() -> None:
    lightness = cielab(error_colours()(np.linspace(0, 1, 32))[:, :3], np.eye(3))[:, 0]
    assert (np.diff(lightness) < 0).all()
    assert lightness[0] < 90


@pytest.mark.parametrize("count", [1, 8, 20])
def test_categories_have_colours_of_their_own(count: int) -> None:
    assert len(set(category_colours(count))) == count


@pytest.mark.parametrize(("count", "mapped"), [(1, False), (1, True), (3, False), (3, True)])
def test_layout_figure_has_a_panel_for_everything(count: int, mapped: bool, tmp_path: Path) -> None:
    true = layout()
    layouts = {f"method {i}": moved(layout(seed=i + 1), -1.0) for i in range(count)}
    values = np.linspace(0, 1, 80)
    crossed = values > 0.9
    shown = CellMap("error radius", values, "mm", crossed) if mapped else None
    figure = layout_figure("slide 7", true, layouts, shown)
    axes = panels(figure)
    assert len(axes) == 1 + count + mapped
    assert len(figure.axes) - len(axes) == mapped
    assert figure.get_suptitle() == "slide 7"
    assert axes[0].get_title() == "true positions\nn = 80"
    wanted = position_colours(true)
    for axis, (title, shown_layout) in zip(axes[1:], layouts.items(), strict=False):
        (drawn,) = axis.collections
        np.testing.assert_allclose(drawn.get_offsets(), superpose(shown_layout, true)[0], atol=1e-6)
        np.testing.assert_allclose(drawn.get_facecolor()[:, :3], wanted, atol=1e-6)
        rmse = math.sqrt(procrustes(true, shown_layout)[2])
        rank = spearmanr(pdist(shown_layout), pdist(true)).statistic
        assert axis.get_title() == f"{title}\nSpearman {rank:.2f}, RMSE {rmse:.2f} radii"
    limits = {(axis.get_xlim(), axis.get_ylim()) for axis in axes}
    assert len(limits) == 1, "one scale holds for all panels"
    for axis in axes:
        for collection in axis.collections:
            assert axis.viewLim.extents[0] < np.asarray(collection.get_offsets()).min()
    if mapped:
        dots, crosses = axes[-1].collections
        first = superpose(layouts["method 0"], true)[0]
        np.testing.assert_allclose(dots.get_array(), values[~crossed])
        np.testing.assert_allclose(dots.get_offsets(), first[~crossed], atol=1e-6)
        np.testing.assert_allclose(crosses.get_offsets(), first[crossed], atol=1e-6)
        assert axes[-1].get_title() == f"error radius\n× abstained: {crossed.sum()} of 80"
        (bar,) = [axis for axis in figure.axes if axis not in axes]
        assert bar.get_ylabel() == "mm"
    path = tmp_path / "figures" / "layout.png"
    save_figure(figure, path, dpi=40)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in path.parent.iterdir()] == ["layout.png"]


def test_the_scale_bar_is_as_long_as_it_says() -> None:
    """The panel is in RMS radii; the distance of two spots in µm gives its scale independently."""
    true, micrometres = layout() * 13.0, 200.0
    figure = layout_figure("x", true, {"y": moved(true)}, micrometres=micrometres)
    first, second = panels(figure)
    ((length, label),) = bars(first)
    assert bars(second) == []
    number, unit = label.split()
    stated = float(number) * {"µm": 1.0, "mm": 1000.0}[unit]
    offsets = np.asarray(first.collections[0].get_offsets())
    drawn = np.linalg.norm(offsets[0] - offsets[7])
    real = np.linalg.norm(true[0] - true[7]) * micrometres
    assert length / drawn == pytest.approx(stated / real, rel=1e-5)


def test_without_a_unit_the_scale_bar_is_a_share_of_the_radius() -> None:
    ((length, label),) = bars(panels(layout_figure("x", layout(), {"y": layout()}))[0])
    assert label == f"{length:g} RMS radii of the tissue"


def test_cells_without_a_value_are_grey_and_the_largest_are_drawn_last() -> None:
    values = np.random.default_rng(0).permutation(80).astype(float)
    values[4] = np.nan
    figure = map_figure(layout(), [CellMap("a", values, "Å"), CellMap("b", -values, "µm")])
    axes = panels(figure)
    assert [axis.get_title() for axis in axes] == ["a", "b"]
    grey, dots = axes[0].collections
    np.testing.assert_allclose(grey.get_offsets(), layout()[[4]])
    assert dots.get_array().tolist() == sorted(values[np.isfinite(values)])


def test_placed_cells_have_the_colours_of_the_true_positions_beside_them() -> None:
    figure = placed_figure("t", layout(), moved(layout(seed=5)))
    placed, key = (axis.collections[0] for axis in figure.axes)
    wanted = position_colours(moved(layout(seed=5)))
    for drawn in (placed, key):
        np.testing.assert_allclose(drawn.get_facecolor()[:, :3], wanted, atol=1e-6)
    assert len(placed_figure("t", layout()).axes) == 1


def test_categories_are_named() -> None:
    names = np.array(["b", "a"] * 40)
    (axis,) = category_figure("t", layout(), names, "domain").axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a", "b"]
    assert axis.get_legend().get_title().get_text() == "domain"
    np.testing.assert_allclose(axis.collections[0].get_offsets(), layout()[names == "a"])


def test_identifiability_marks_the_spots_of_two_places() -> None:
    true = layout(120)
    found = slide_identifiability(np.random.default_rng(1).standard_normal((120, 4)), true)
    left, middle, right = panels(identifiability_figure("s", true, found))
    np.testing.assert_allclose(left.collections[0].get_array(), found.ambiguity)
    colours = {tuple(c) for c in middle.collections[0].get_facecolor()[found.multimodal]}
    assert len(colours) <= 1
    assert found.verdict in right.get_title()
