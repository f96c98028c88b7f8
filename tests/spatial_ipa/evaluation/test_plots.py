"""Figures: superposition, colours, number and content of panels, files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from common.report.figures import save_figure
from spatial_ipa.evaluation.plots import layout_figure, position_colours, superpose


def layout(n: int = 80, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, 2)) * [5.0, 2.0]


def moved(x: np.ndarray, mirror: float = 1.0) -> np.ndarray:
    c, s = math.cos(2.1), math.sin(2.1)
    return 7 * x @ np.array([[c, -s], [mirror * s, mirror * c]]).T + [100.0, -40.0]


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


def test_colours_are_valid_and_tell_positions_apart() -> None:
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    colours = position_colours(corners)
    assert len({tuple(c) for c in colours.round(3)}) == 4
    for xy in (layout(), layout()[:, ::-1] * 1e6 - 4, np.zeros((5, 2))):
        colours = position_colours(xy)
        assert colours.shape == (len(xy), 3)
        assert colours.min() >= 0
        assert colours.max() <= 1


@pytest.mark.parametrize(("count", "with_spread"), [(1, False), (1, True), (3, False), (3, True)])
def test_figure_has_a_panel_for_everything(count: int, with_spread: bool, tmp_path: Path) -> None:
    true = layout()
    layouts = {f"method {i}": moved(layout(seed=i), -1.0) for i in range(count)}
    spread = np.linspace(0, 1, 80) if with_spread else None
    figure = layout_figure("slide 7", true, layouts, spread)
    bars = [axis for axis in figure.axes if axis.get_label() == "<colorbar>"]
    panels = [axis for axis in figure.axes if axis not in bars]
    titles = ["slide 7: true", *layouts] + ["uncertainty"] * with_spread
    assert [axis.get_title() for axis in panels] == titles
    assert len(bars) == with_spread
    for axis, shown in zip(panels[1:], layouts.values(), strict=False):
        (drawn,) = axis.collections
        moved_there = np.asarray(drawn.get_offsets())
        np.testing.assert_allclose(moved_there, superpose(shown, true)[0], atol=1e-6)
    if spread is not None:
        (drawn,) = panels[-1].collections
        np.testing.assert_allclose(np.asarray(drawn.get_array()), np.asarray(spread))
        first = superpose(layouts["method 0"], true)[0]
        np.testing.assert_allclose(np.asarray(drawn.get_offsets()), first, atol=1e-6)
    path = tmp_path / "figures" / "layout.png"
    save_figure(figure, path, dpi=40)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in path.parent.iterdir()] == ["layout.png"]
