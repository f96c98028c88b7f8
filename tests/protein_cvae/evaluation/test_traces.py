"""Traces and flexibility: superposition against SciPy's, colours, order, scale bar."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from protein_traces import LENGTH, make_traces
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from protein_cvae.evaluation.plots.traces import (
    Residues,
    profile,
    rmsf_figure,
    superposed,
    traces_figure,
)


@pytest.fixture
def ensembles() -> dict[str, torch.Tensor]:
    return make_traces()


@pytest.fixture
def residues() -> Residues:
    """Numbered 5 to 16, a chain break after the fifth, the first eight are core."""
    bonded = torch.arange(LENGTH) < LENGTH - 1
    bonded[4] = False
    return Residues.of(torch.arange(5, 5 + LENGTH), bonded, torch.arange(LENGTH) < 8)


def kabsch_rmsd(mobile: np.ndarray, target: np.ndarray) -> float:
    """RMSD of two point sets after the best rotation, by SciPy."""
    mobile, target = mobile - mobile.mean(0), target - target.mean(0)
    return Rotation.align_vectors(target, mobile)[1] / np.sqrt(len(mobile))


@pytest.mark.parametrize("core", [None, torch.arange(LENGTH) < 8], ids=["all", "core"])
def test_traces_are_superposed_as_an_independent_kabsch_does(ensembles, core):
    turned = superposed(ensembles, core)
    used = np.ones(LENGTH, bool) if core is None else core.numpy()
    mean = turned["real"].mean(0)
    for title, x in turned.items():
        for before, after in zip(ensembles[title].numpy(), x, strict=True):
            np.testing.assert_allclose(cdist(before, before), cdist(after, after), atol=1e-6)
            as_drawn = np.sqrt(((after - mean)[used] ** 2).sum(1).mean())
            assert as_drawn == pytest.approx(kabsch_rmsd(before[used], mean[used]), abs=1e-5)


def test_the_view_is_along_principal_axes_and_no_mirror_image(ensembles):
    turned = superposed(ensembles)
    mean = turned["real"].mean(0)
    assert (np.diff(mean.var(0)) < 0).all(), "widest first"
    for title, x in turned.items():
        for before, after in zip(ensembles[title].numpy(), x, strict=True):
            hands = [np.sign(np.linalg.det(np.diff(y[:4], axis=0))) for y in (before, after)]
            assert hands[0] == hands[1]


@pytest.mark.parametrize("views", [1, 2])
def test_at_most_twenty_models_and_breaks_where_the_chain_does(ensembles, residues, views):
    figure = traces_figure("x", ensembles, residues, views)
    panels = [axis for axis in figure.axes if axis.get_label() != "<colorbar>"]
    assert [axis.get_title() for axis in panels[:3]] == [
        "real\n6 models", "ours\n30 models, 20 drawn", "prior\n4 models",
    ]  # fmt: skip
    segments = [len(lines_of(axis).get_segments()) for axis in panels]
    assert segments == [10 * n for n in (6, 20, 4)] * views
    for row in (panels[:3], panels[3:]):
        assert len({(axis.get_xlim(), axis.get_ylim()) for axis in row}) == bool(row)
    for axis in panels:
        assert axis.get_aspect() == 1


def lines_of(axis) -> LineCollection:
    (lines,) = [c for c in axis.collections if isinstance(c, LineCollection)]
    return lines


def test_colours_follow_the_residue_and_the_nearest_is_on_top(ensembles, residues):
    figure = traces_figure("x", {"real": ensembles["real"]}, residues, views=1)
    lines = lines_of(figure.axes[0])
    turned = superposed({"real": ensembles["real"]}, residues.core)["real"]
    depth = []
    for segment, number in zip(lines.get_segments(), lines.get_array(), strict=True):
        residue = int(number - 0.5) - 5  # colours are those of the middle of a bond
        gap = np.abs(turned[:, residue : residue + 2, :2] - segment).max((1, 2))
        assert gap.min() < 1e-9
        depth.append(turned[gap.argmin(), residue : residue + 2, 2].mean())
    assert (np.diff(depth) >= -1e-9).all()
    assert (lines.norm.vmin, lines.norm.vmax) == (5, 16)
    (bar,) = [axis for axis in figure.axes if axis.get_label() == "<colorbar>"]
    assert bar.get_ylabel() == "residue number, N to C"
    ticks = bar.get_yticks()
    assert (ticks[0], ticks[-1]) == (5, 16)


def test_ends_are_marked_and_the_bar_is_in_angstrom(ensembles, residues):
    figure = traces_figure("x", ensembles, residues, views=1)
    first = figure.axes[0]
    turned = superposed(ensembles, residues.core)["real"]
    texts = {text.get_text(): text for text in first.texts}
    np.testing.assert_allclose(texts["N"].xy, turned[:, 0, :2].mean(0))
    np.testing.assert_allclose(texts["C"].xy, turned[:, -1, :2].mean(0))
    (bar,) = first.lines
    (label,) = set(texts) - {"N", "C"}
    assert label == f"{np.ptp(bar.get_xdata()):g} Å"
    assert [len(axis.lines) for axis in figure.axes[1:3]] == [0, 0], "one bar for all panels"


def test_the_profile_is_the_fluctuation_about_the_core(ensembles, residues):
    """Against superposition on the mean by SciPy, repeated until the mean stays."""
    x, core = ensembles["ours"].numpy(), residues.core.numpy()
    mean = x[0]
    for _ in range(30):
        fitted = []
        for model in x:
            centre, goal = model[core].mean(0), mean[core].mean(0)
            turn, _ = Rotation.align_vectors(mean[core] - goal, model[core] - centre)
            fitted.append(turn.apply(model - centre) + goal)
        mean = np.mean(fitted, 0)
    wanted = np.sqrt(((np.array(fitted) - mean) ** 2).sum(2).mean(0))
    np.testing.assert_allclose(profile(ensembles["ours"], residues.core), wanted, atol=1e-5)


def test_profiles_are_drawn_by_residue_number_with_the_real_one_in_black(ensembles, residues):
    axis = rmsf_figure("x", ensembles, residues).axes[0]
    for line, (title, x) in zip(axis.lines, ensembles.items(), strict=True):
        assert line.get_label() == title
        numbers, values = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        assert np.flatnonzero(np.isnan(numbers)).tolist() == [5], "a gap at the chain break"
        drawn = np.isfinite(numbers)
        assert numbers[drawn].tolist() == list(range(5, 17))
        np.testing.assert_allclose(values[drawn], profile(x, residues.core))
    assert axis.lines[0].get_color() == "black"


def test_a_core_that_is_too_small_is_not_used(ensembles):
    few = torch.arange(LENGTH) < 2
    everywhere = torch.ones(LENGTH, dtype=torch.bool)
    np.testing.assert_allclose(
        profile(ensembles["real"], few), profile(ensembles["real"], everywhere)
    )


def test_numbers_that_start_again_are_counted():
    numbers = torch.tensor([3, 4, 5, 3, 4, 5])
    found = Residues.of(numbers, numbers < 5)
    assert found.numbers.tolist() == [1, 2, 3, 4, 5, 6]
    assert found.label == "residue, counted from 1"
    assert bool(found.core.all())


def test_flexibility_stands_beside_the_traces(ensembles, residues):
    figure = traces_figure("x", ensembles, residues, views=1, flexibility=True)
    beside = figure.axes[-1]
    assert beside.get_title() == "flexibility"
    assert len(beside.lines) == 3
