"""Regression in the common frame: against dense algebra, on slides in any pose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.distance import cdist
from sklearn.linear_model import Ridge

from spatial_ipa.data.slide import EmbeddedSlide
from spatial_ipa.geometry.gauge import gauge_fix_array
from spatial_ipa.layout import frame_regression as common_frame
from spatial_ipa.layout.frame_regression import FrameRegression
from spatial_ipa.layout.placement import Placement

D = 6


def slide(seed: int, n: int = 150, noise: float = 0.05) -> EmbeddedSlide:
    """Embeddings that are one smooth map of the position in the tissue, without symmetry."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform(-1, 1, (n, 2)) * [2.0, 1.0]
    x, y = xy.T
    h = np.stack([x, y, x * y, np.sin(2 * x), np.cos(2 * y), np.exp(0.5 * (x + y))], axis=1)
    h = h + noise * rng.standard_normal((n, D))
    return EmbeddedSlide(f"s{seed}", h.astype(np.float32), xy.astype(np.float32))


def turned(s: EmbeddedSlide, angle: float, mirror: bool = False) -> EmbeddedSlide:
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    turn = turn @ np.diag([-1.0 if mirror else 1.0, 1.0])
    return replace(s, xy=(30 * s.xy.astype(np.float64) @ turn + [100.0, 7.0]).astype(np.float32))


def random_placement(n: int, seed: int = 0, draws: int = 4) -> Placement:
    rng = np.random.default_rng(seed)
    xy = gauge_fix_array(rng.standard_normal((n, 2)))
    moved = xy + 0.1 * rng.standard_normal((draws, n, 2))
    moved += xy - moved.mean(axis=0)  # their mean is the layout
    return Placement(torch.from_numpy(xy), torch.from_numpy(moved))


def rmse(layout: np.ndarray, true: np.ndarray) -> float:
    """RMS distance after the best rotation of two gauge-fixed layouts."""
    a, b = gauge_fix_array(layout), gauge_fix_array(true)
    return float(np.sqrt(((a @ orthogonal_procrustes(a, b)[0] - b) ** 2).sum(axis=1).mean()))


def dense_kernel_ridge(train: EmbeddedSlide, h: np.ndarray) -> np.ndarray:
    """Kernel ridge with intercept in its dual form, on all cells of one slide."""
    f, y, n = train.h.astype(np.float64), gauge_fix_array(train.xy), len(train.h)
    squared = cdist(f, f) ** 2
    width = squared.mean()
    centre = np.eye(n) - 1 / n
    kernel = np.exp(-squared / (2 * width))
    dual = np.linalg.solve(centre @ kernel @ centre + np.eye(n), centre @ y)
    query = np.exp(-(cdist(h.astype(np.float64), f) ** 2) / (2 * width))
    return (query - kernel.mean(axis=0)) @ centre @ dual + y.mean(axis=0)


def test_prediction_equals_dense_kernel_ridge() -> None:
    train, test = slide(0), slide(1)
    found = FrameRegression.fit([train]).predict(test.h)
    # Fitting draws the cells in another order; nothing else differs but rounding.
    np.testing.assert_allclose(found, dense_kernel_ridge(train, test.h), atol=2e-5)


def test_fewer_centres_than_cells_are_close_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = slide(0, n=600), slide(1)
    monkeypatch.setattr(common_frame, "MAX_CENTRES", 200)
    regression = FrameRegression.fit([train])
    assert regression.centres.shape == (200, D)
    np.testing.assert_allclose(
        regression.predict(test.h), dense_kernel_ridge(train, test.h), atol=0.02
    )


def test_positions_of_a_new_slide_are_found_from_slides_in_any_pose() -> None:
    train = [slide(0), turned(slide(1), 2.0, mirror=True), turned(slide(2), -1.2)]
    test = slide(3)
    regression = FrameRegression.fit(train)
    assert rmse(regression.predict(test.h), test.xy) < 0.15


def test_poses_of_training_slides_do_not_matter() -> None:
    train, test = [slide(0), slide(1), slide(2)], slide(3)
    posed = [turned(s, 0.9 * i, i == 1) for i, s in enumerate(train, start=1)]
    placement = random_placement(len(test.h))
    first, second = (
        FrameRegression.fit(slides).refine(placement, test.h) for slides in (train, posed)
    )
    torch.testing.assert_close(first.xy, second.xy, atol=1e-5, rtol=0)  # coordinates are float32
    torch.testing.assert_close(first.draws, second.draws, atol=1e-5, rtol=0)


def dense_refined(placement: Placement, h: np.ndarray, z: np.ndarray, k: int) -> np.ndarray:
    near = np.argsort(cdist(h, h), axis=1)[:, : k + 1]  # the cell itself is the first
    z = z[near].mean(axis=1)
    z, x = z - z.mean(axis=0), placement.xy.numpy()
    total = x + z @ orthogonal_procrustes(z, x)[0]
    return np.asarray(total / np.sqrt((total**2).sum(axis=1).mean()))


@pytest.mark.parametrize(("n", "k"), [(5, 3), (60, 3), (400, 8)])
def test_refined_layout_equals_its_definition(n: int, k: int) -> None:
    regression, h = FrameRegression.fit([slide(0)]), slide(1, n).h
    placement = random_placement(n)
    found = regression.refine(placement, h).xy.numpy()
    expected = dense_refined(placement, h.astype(np.float64), regression.predict(h), k)
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_very_few_cells_are_left_alone(n: int) -> None:
    """Each is averaged with all others, so that the regression is the same for all."""
    regression, placement = FrameRegression.fit([slide(0)]), random_placement(n)
    found = regression.refine(placement, slide(1, n).h)
    torch.testing.assert_close(found.xy, placement.xy, atol=1e-9, rtol=0)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    regression, h = FrameRegression.fit([slide(0)]), slide(1, 300).h
    placement = random_placement(300)
    whole = regression.refine(placement, h).xy
    monkeypatch.setattr(common_frame, "_BLOCK", 37)
    torch.testing.assert_close(regression.refine(placement, h).xy, whole, atol=1e-10, rtol=0)


def test_neighbours_of_many_cells_are_sought_in_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell counts itself whether or not it is in the sample."""
    regression, h = FrameRegression.fit([slide(0)]), slide(1, 200).h
    monkeypatch.setattr(common_frame, "_SAMPLE", 50)
    z = regression.predict(h)
    rows = common_frame.numpy_generator_for(7, 79).permutation(200)[:50]
    expected = []
    for i in range(200):
        others = rows[rows != i]
        near = others[np.argsort(((h[others] - h[i]).astype(np.float64) ** 2).sum(axis=1))[:3]]
        expected.append(z[[i, *near]].mean(axis=0))
    np.testing.assert_allclose(regression.averaged(h, 7), expected, atol=1e-12)


def test_order_of_cells_does_not_matter() -> None:
    regression, h = FrameRegression.fit([slide(0)]), slide(1).h
    placement, order = random_placement(len(h)), torch.randperm(len(h))
    shuffled = Placement(placement.xy[order], placement.draws[:, order])
    torch.testing.assert_close(
        regression.refine(shuffled, h[order.numpy()]).xy,
        regression.refine(placement, h).xy[order],
        atol=1e-9,
        rtol=0,
    )


def test_result_turns_with_the_layout() -> None:
    regression, h = FrameRegression.fit([slide(0)]), slide(1).h
    placement = random_placement(len(h))
    turn = torch.tensor([[0.6, 0.8], [0.8, -0.6]], dtype=torch.float64)  # a reflection
    posed = Placement(placement.xy @ turn, placement.draws @ turn)
    torch.testing.assert_close(
        regression.refine(posed, h).xy, regression.refine(placement, h).xy @ turn, atol=1e-9, rtol=0
    )


def test_draws_move_with_their_mean() -> None:
    regression, h = FrameRegression.fit([slide(0)]), slide(1).h
    placement = random_placement(len(h))
    found = regression.refine(placement, h)
    torch.testing.assert_close(found.draws.mean(0), found.xy, atol=1e-9, rtol=0)
    # All distances to the mean shrink by one factor: nothing but the scale has changed.
    factor = found.spread / placement.spread
    torch.testing.assert_close(factor, factor[:1].expand_as(factor), atol=1e-9, rtol=0)
    assert 0.3 < float(factor[0]) < 1


def test_regression_that_explains_nothing_leaves_the_layout() -> None:
    regression, h = FrameRegression.fit([slide(0)]), slide(1).h
    empty = replace(regression, weights=np.zeros_like(regression.weights))
    placement = random_placement(len(h))
    torch.testing.assert_close(empty.refine(placement, h).xy, placement.xy, atol=1e-12, rtol=0)


def test_a_folded_layout_is_mended() -> None:
    """Half of the tissue lies mirrored upon the other: no neighbour is wrong but at the fold."""
    train, test = [slide(0), slide(1)], slide(2)
    folded = gauge_fix_array(np.column_stack([np.abs(test.xy[:, 0]), test.xy[:, 1]]))
    placement = Placement(torch.from_numpy(folded), torch.from_numpy(folded)[None])
    mended = FrameRegression.fit(train).refine(placement, test.h).xy.numpy()
    assert rmse(mended, test.xy) < rmse(folded, test.xy) - 0.3


def test_bounds_on_slides_and_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common_frame, "MAX_SLIDES", 2)
    monkeypatch.setattr(common_frame, "MAX_CELLS", 80)
    regression = FrameRegression.fit([slide(i) for i in range(4)])
    assert regression.centres.shape == (80, D)
    rows = np.concatenate([slide(i).h for i in range(4)])
    origin = cdist(regression.centres, rows).argmin(axis=1) // 150
    assert sorted(np.bincount(origin, minlength=4).tolist()) == [0, 0, 40, 40]


def test_survives_a_checkpoint(tmp_path: Path) -> None:
    regression, h = FrameRegression.fit([slide(0)]), slide(1).h
    torch.save(regression.state(), tmp_path / "frame.pt")
    again = FrameRegression.from_state(torch.load(tmp_path / "frame.pt", weights_only=True))
    assert np.array_equal(again.predict(h), regression.predict(h))


def test_another_version_is_refused() -> None:
    state = FrameRegression.fit([slide(0)]).state() | {"version": 0}
    with pytest.raises(ValueError, match="common frame has version 0, expected 1"):
        FrameRegression.from_state(state)


def test_large_slides_are_registered_by_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    train = [slide(0), turned(slide(1), 2.0, mirror=True)]
    monkeypatch.setattr(common_frame, "_REGISTERED", 60)
    test = slide(3)
    assert rmse(FrameRegression.fit(train).predict(test.h), test.xy) < 0.2


def test_embeddings_on_disk_and_repeated_cells(tmp_path: Path) -> None:
    """Memory-mapped as the cache gives them, and every cell twice."""
    train, test = slide(0), slide(1)
    np.save(tmp_path / "h.npy", np.repeat(train.h, 2, axis=0))
    twice = EmbeddedSlide(
        "twice", np.load(tmp_path / "h.npy", mmap_mode="r"), np.repeat(train.xy, 2, axis=0)
    )
    regression = FrameRegression.fit([twice])
    assert np.abs(regression.weights).max() < 100  # finite: no eigenvalue 0 was inverted
    assert rmse(regression.predict(test.h), test.xy) < 0.15


def test_the_seed_fixes_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common_frame, "MAX_CENTRES", 40)
    h = slide(1).h
    first, second, other = (FrameRegression.fit([slide(0)], s).predict(h) for s in (3, 3, 4))
    assert np.array_equal(first, second)
    assert not np.allclose(first, other)


def broken(s: EmbeddedSlide) -> EmbeddedSlide:
    h = s.h.copy()
    h[3, 1] = np.nan
    return replace(s, h=h)


def empty(s: EmbeddedSlide) -> EmbeddedSlide:
    return replace(s, h=s.h[:0], xy=s.xy[:0])


def flat(s: EmbeddedSlide) -> EmbeddedSlide:
    return replace(s, h=np.ones_like(s.h))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FrameRegression.fit([]), "slides is empty"),
        (lambda: FrameRegression.fit([flat(slide(0))]), "same embedding"),
        (lambda: FrameRegression.fit([slide(0), broken(slide(1))]), "slide s1: .*NaN"),
        (lambda: FrameRegression.fit([slide(0), empty(slide(1))]), "slide s1 has no cells"),
        (lambda: FrameRegression.fit([slide(0)]).predict(np.ones((3, 5))), r"\(n, 6\)"),
        (lambda: FrameRegression.fit([slide(0)]).predict(np.ones(6)), r"\(n, 6\)"),
    ],
)
def test_bad_input_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def refitted_start(slides: list[EmbeddedSlide], s: int, cells: np.ndarray) -> np.ndarray:
    """The regression with some cells of a slide left out of the ridge problem, solved anew."""
    fit = common_frame._Fit.of(slides, 0)
    kept = ~((fit.slide == s) & np.isin(fit.row, cells))
    ridge = Ridge(1.0).fit(fit.kernel.transform(fit.features[kept]), fit.target[kept])
    return ridge.predict(fit.kernel.transform(slides[s].h[cells].astype(np.float64)))


@pytest.mark.parametrize("folds", [False, True])
def test_starts_are_those_of_a_fit_without_the_fold(folds: bool) -> None:
    slides = [slide(0, 60), slide(1, 70)]
    if folds:
        slides = [replace(s, fold=np.arange(len(s.xy)) % 5, h_frame=s.h + 0.01) for s in slides]
    frame, started = common_frame.cross_fit(slides)
    np.testing.assert_array_equal(frame.weights, FrameRegression.fit(slides).weights)
    for s, cells in ((0, np.array([3])), (1, np.array([69]))):
        if folds:
            cells = np.flatnonzero(slides[s].fold == slides[s].fold[cells[0]])
        start = started[s].start
        assert start is not None
        np.testing.assert_allclose(start[cells], refitted_start(slides, s, cells), atol=2e-5)


def test_a_start_does_not_see_its_own_position() -> None:
    """A cell moved far away pulls the fit towards itself, but not its own start."""
    slides = [slide(0, 80)]
    moved = slides[0].xy.copy()
    moved[4] += 0.5
    start = [common_frame.cross_fit([replace(s, xy=xy)])[1][0].start for s, xy in
             ((slides[0], slides[0].xy), (slides[0], moved))]  # fmt: skip
    assert start[0] is not None
    assert start[1] is not None
    own = np.linalg.norm(start[0][4] - start[1][4])
    others = np.linalg.norm(np.delete(start[0] - start[1], 4, axis=0), axis=1)
    assert own < np.quantile(others, 0.9)  # it moves by the gauge alone, as cells far from it do


def test_the_frame_on_tensors_equals_that_on_arrays() -> None:
    frame = FrameRegression.fit([slide(0), slide(1)])
    h = slide(2).h
    found = frame.on_tensors()(torch.from_numpy(h))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), frame.predict(h), atol=1e-5)
