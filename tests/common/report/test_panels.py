"""Panels of points in space: limits, scale bar, sizes of dots."""

from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from common.report.panels import ShownFigure, bare, dot_size, limits, nice_length, scale_bar


@pytest.mark.parametrize(
    ("extent", "length"), [(4.0, 1.0), (3.99, 0.5), (8.1, 2.0), (21.0, 5.0), (6200.0, 1000.0)]
)
def test_nice_lengths_are_one_two_or_five(extent: float, length: float) -> None:
    assert nice_length(extent) == pytest.approx(length)


@pytest.mark.parametrize("extent", np.geomspace(1e-7, 1e9, 41))
def test_nice_lengths_fill_a_tenth_to_a_quarter(extent: float) -> None:
    length = nice_length(extent)
    assert extent / 10.01 <= length <= extent / 4 * 1.001
    assert round(length / 10 ** math.floor(math.log10(length) + 1e-9), 6) in (1, 2, 5)


@pytest.mark.parametrize("extent", [0.0, -1.0, math.nan, math.inf])
def test_no_length_fits_nothing(extent: float) -> None:
    with pytest.raises(ValueError, match="extent must be positive and finite"):
        nice_length(extent)


def test_limits_hold_all_points_and_leave_room_for_the_bar() -> None:
    a, b = np.array([[0.0, 0.0], [4.0, np.nan]]), np.array([[10.0, 5.0]])
    (left, right), (bottom, top) = limits(a, b)
    assert left < 0
    assert right > 10
    assert bottom < -1
    assert top > 5
    assert limits(np.empty((0, 2))) == ((0.0, 1.0), (0.0, 1.0))
    (left, right), _ = limits(np.ones((3, 2)))
    assert left < 1 < right


def test_the_bar_lies_below_the_points_and_has_its_length() -> None:
    axis = Figure().subplots()
    points = np.random.default_rng(0).random((50, 2))
    xlim, ylim = limits(points)
    axis.set_xlim(*xlim)
    axis.set_ylim(*ylim)
    bare(axis)
    scale_bar(axis, 0.2, "1 mm")
    (line,) = axis.lines
    x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    assert np.ptp(x) == pytest.approx(0.2)
    assert ylim[0] < y.max() < points[:, 1].min()
    assert [text.get_text() for text in axis.texts] == ["1 mm"]
    assert axis.get_aspect() == 1
    assert (axis.get_xlim(), axis.get_ylim()) == (xlim, ylim)
    assert list(axis.get_xticks()) == list(axis.get_yticks()) == []


def test_dots_of_a_grid_nearly_touch() -> None:
    """20 by 20 dots, one unit apart, in a panel 4 inches wide: spacing 14 points."""
    size = dot_size((0.0, 20.0), (0.0, 20.0), 400, 4.0)
    assert 0.5 * 14.4 < math.sqrt(size) < 14.4
    assert dot_size((0.0, 1.0), (0.0, 1.0), 10**7, 4.0) == 1.0


def test_a_notebook_is_given_a_picture() -> None:
    figure = ShownFigure(figsize=(2, 1))
    figure.subplots().plot([0, 1])
    assert figure._repr_png_().startswith(b"\x89PNG")
