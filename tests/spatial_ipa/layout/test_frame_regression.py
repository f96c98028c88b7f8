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
from spatial_ipa.geometry.blocks import spatial_blocks
from spatial_ipa.geometry.gauge import gauge_fix_array
from spatial_ipa.geometry.metrics import procrustes_rmse
from spatial_ipa.layout import frame_fit
from spatial_ipa.layout import frame_regression as common_frame
from spatial_ipa.layout.frame_fit import cross_fit
from spatial_ipa.layout.frame_regression import FrameRegression, refined
from spatial_ipa.layout.placement import Placement

D = 6


def fitted(slides: list[EmbeddedSlide], seed: int = 0) -> FrameRegression:
    return cross_fit(slides, seed)[0]


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


def refine(frame: FrameRegression, placement: Placement, h: np.ndarray) -> Placement:
    return refined(placement, frame.averaged(h))


def dense_kernel_ridge(train: EmbeddedSlide, h: np.ndarray, frame: FrameRegression) -> np.ndarray:
    """Kernel ridge with intercept in its dual form, on all cells of one slide."""
    f, y, n = train.h.astype(np.float64), gauge_fix_array(train.xy), len(train.h)
    squared = cdist(f, f) ** 2
    factor = 2 * frame.gamma * squared.mean()
    assert min(abs(factor / width - 1) for width in frame_fit.WIDTHS) < 1e-5
    centre = np.eye(n) - 1 / n
    kernel = np.exp(-frame.gamma * squared)
    dual = np.linalg.solve(centre @ kernel @ centre + frame.penalty * np.eye(n), centre @ y)
    query = np.exp(-frame.gamma * cdist(h.astype(np.float64), f) ** 2)
    return (query - kernel.mean(axis=0)) @ centre @ dual + y.mean(axis=0)


def test_prediction_equals_dense_kernel_ridge() -> None:
    train, test = slide(0), slide(1)
    frame = fitted([train])
    # Fitting draws the cells in another order; nothing else differs but rounding.
    np.testing.assert_allclose(
        frame.predict(test.h), dense_kernel_ridge(train, test.h, frame), atol=2e-5
    )


def test_fewer_centres_than_cells_are_close_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = slide(0, n=600), slide(1)
    monkeypatch.setattr(frame_fit, "MAX_CENTRES", 200)
    regression = fitted([train])
    assert regression.centres.shape == (200, D)
    np.testing.assert_allclose(
        regression.predict(test.h), dense_kernel_ridge(train, test.h, regression), atol=0.02
    )


def test_positions_of_a_new_slide_are_found_from_slides_in_any_pose() -> None:
    train = [slide(0), turned(slide(1), 2.0, mirror=True), turned(slide(2), -1.2)]
    test = slide(3)
    regression = fitted(train)
    assert rmse(regression.predict(test.h), test.xy) < 0.15


def test_poses_of_training_slides_do_not_matter() -> None:
    train, test = [slide(0), slide(1), slide(2)], slide(3)
    posed = [turned(s, 0.9 * i, i == 1) for i, s in enumerate(train, start=1)]
    placement = random_placement(len(test.h))
    first, second = (refine(fitted(slides), placement, test.h) for slides in (train, posed))
    torch.testing.assert_close(first.xy, second.xy, atol=1e-5, rtol=0)  # coordinates are float32
    torch.testing.assert_close(first.draws, second.draws, atol=1e-5, rtol=0)


def dense_mean_of_alike(z: np.ndarray, h: np.ndarray, sharpness: float) -> np.ndarray:
    weight = np.exp(-sharpness * cdist(h, h, "cosine"))
    return np.asarray(weight @ z / weight.sum(axis=1, keepdims=True))


def dense_refined(
    placement: Placement, h: np.ndarray, z: np.ndarray, sharpness: float
) -> np.ndarray:
    z = dense_mean_of_alike(z, h, sharpness)
    z, x = z - z.mean(axis=0), placement.xy.numpy()
    total = x + z @ orthogonal_procrustes(z, x)[0]
    return np.asarray(total / np.sqrt((total**2).sum(axis=1).mean()))


@pytest.mark.parametrize("n", [2, 5, 60, 400])
def test_refined_layout_equals_its_definition(n: int) -> None:
    regression, h = fitted([slide(0)]), slide(1, n).h
    placement = random_placement(n)
    found = refine(regression, placement, h).xy.numpy()
    z = regression.predict(h)
    expected = dense_refined(placement, h.astype(np.float64), z, regression.sharpness)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_means_of_alike_cells_at_their_ends() -> None:
    z, h = np.arange(12.0).reshape(6, 2), slide(1, 6).h
    np.testing.assert_allclose(
        common_frame.mean_of_alike(z, h, 0.0), np.broadcast_to(z.mean(axis=0), z.shape), atol=1e-12
    )
    np.testing.assert_allclose(common_frame.mean_of_alike(z, h, 1e6), z, atol=1e-12)
    assert np.isfinite(common_frame.mean_of_alike(z, np.zeros_like(h), 2.0)).all()


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    regression, h = fitted([slide(0)]), slide(1, 300).h
    placement = random_placement(300)
    whole = refine(regression, placement, h).xy
    monkeypatch.setattr(common_frame, "_BLOCK", 37)
    torch.testing.assert_close(refine(regression, placement, h).xy, whole, atol=1e-10, rtol=0)


def test_of_many_cells_a_sample_is_averaged_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell counts itself once, whether or not it is in the sample."""
    h, z = slide(1, 200).h, np.random.default_rng(0).standard_normal((200, 3))
    monkeypatch.setattr(common_frame, "_SAMPLE", 50)
    rows = common_frame.numpy_generator_for(7, 79).permutation(200)[:50]
    expected = []
    for i in range(200):
        used = [i, *rows[rows != i]]
        expected.append(dense_mean_of_alike(z[used], h[used].astype(np.float64), 3.0)[0])
    np.testing.assert_allclose(common_frame.mean_of_alike(z, h, 3.0, 7), expected, atol=1e-12)


def test_order_of_cells_does_not_matter() -> None:
    regression, h = fitted([slide(0)]), slide(1).h
    placement, order = random_placement(len(h)), torch.randperm(len(h))
    shuffled = Placement(placement.xy[order], placement.draws[:, order])
    torch.testing.assert_close(
        refine(regression, shuffled, h[order.numpy()]).xy,
        refine(regression, placement, h).xy[order],
        atol=1e-9,
        rtol=0,
    )


def test_result_turns_with_the_layout() -> None:
    regression, h = fitted([slide(0)]), slide(1).h
    placement = random_placement(len(h))
    turn = torch.tensor([[0.6, 0.8], [0.8, -0.6]], dtype=torch.float64)  # a reflection
    posed = Placement(placement.xy @ turn, placement.draws @ turn)
    torch.testing.assert_close(
        refine(regression, posed, h).xy,
        refine(regression, placement, h).xy @ turn,
        atol=1e-9,
        rtol=0,
    )


def test_draws_move_with_their_mean() -> None:
    regression, h = fitted([slide(0)]), slide(1).h
    placement = random_placement(len(h))
    found = refine(regression, placement, h)
    torch.testing.assert_close(found.draws.mean(0), found.xy, atol=1e-9, rtol=0)
    # All distances to the mean shrink by one factor: nothing but the scale has changed.
    factor = found.spread / placement.spread
    torch.testing.assert_close(factor, factor[:1].expand_as(factor), atol=1e-9, rtol=0)
    assert 0.3 < float(factor[0]) < 1


def test_regression_that_explains_nothing_leaves_the_layout() -> None:
    regression, h = fitted([slide(0)]), slide(1).h
    empty = replace(regression, weights=np.zeros_like(regression.weights))
    placement = random_placement(len(h))
    torch.testing.assert_close(refine(empty, placement, h).xy, placement.xy, atol=1e-12, rtol=0)


def test_a_folded_layout_is_mended() -> None:
    """Half of the tissue lies mirrored upon the other: no neighbour is wrong but at the fold."""
    train, test = [slide(0), slide(1)], slide(2)
    folded = gauge_fix_array(np.column_stack([np.abs(test.xy[:, 0]), test.xy[:, 1]]))
    placement = Placement(torch.from_numpy(folded), torch.from_numpy(folded)[None])
    mended = refine(fitted(train), placement, test.h).xy.numpy()
    assert rmse(mended, test.xy) < rmse(folded, test.xy) - 0.3


def test_bounds_on_slides_and_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_fit, "MAX_SLIDES", 2)
    monkeypatch.setattr(frame_fit, "MAX_CELLS", 80)
    regression = fitted([slide(i) for i in range(4)])
    assert regression.centres.shape == (80, D)
    rows = np.concatenate([slide(i).h for i in range(4)])
    origin = cdist(regression.centres, rows).argmin(axis=1) // 150
    assert sorted(np.bincount(origin, minlength=4).tolist()) == [0, 0, 40, 40]


def test_survives_a_checkpoint(tmp_path: Path) -> None:
    regression, h = fitted([slide(0)]), slide(1).h
    torch.save(regression.state(), tmp_path / "frame.pt")
    again = FrameRegression.from_state(torch.load(tmp_path / "frame.pt", weights_only=True))
    assert np.array_equal(again.predict(h), regression.predict(h))


def test_another_version_is_refused() -> None:
    state = fitted([slide(0)]).state() | {"version": 0}
    with pytest.raises(ValueError, match="common frame has version 0, expected 2"):
        FrameRegression.from_state(state)


def test_large_slides_are_registered_by_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    train = [slide(0), turned(slide(1), 2.0, mirror=True)]
    monkeypatch.setattr(frame_fit, "_REGISTERED", 60)
    test = slide(3)
    assert rmse(fitted(train).predict(test.h), test.xy) < 0.2


def test_embeddings_on_disk_and_repeated_cells(tmp_path: Path) -> None:
    """Memory-mapped as the cache gives them, and every cell twice."""
    train, test = slide(0), slide(1)
    np.save(tmp_path / "h.npy", np.repeat(train.h, 2, axis=0))
    twice = EmbeddedSlide(
        "twice", np.load(tmp_path / "h.npy", mmap_mode="r"), np.repeat(train.xy, 2, axis=0)
    )
    regression = fitted([twice])
    assert np.abs(regression.weights).max() < 100  # finite: no eigenvalue 0 was inverted
    assert rmse(regression.predict(test.h), test.xy) < 0.15


def test_the_seed_fixes_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_fit, "MAX_CENTRES", 40)
    h = slide(1).h
    first, second, other = (fitted([slide(0)], s).predict(h) for s in (3, 3, 4))
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
        (lambda: fitted([]), "slides is empty"),
        (lambda: fitted([flat(slide(0))]), "same embedding"),
        (lambda: fitted([slide(0), broken(slide(1))]), "slide s1: .*NaN"),
        (lambda: fitted([slide(0), empty(slide(1))]), "slide s1 has no cells"),
        (lambda: fitted([slide(0)]).predict(np.ones((3, 5))), r"\(n, 6\)"),
        (lambda: fitted([slide(0)]).predict(np.ones(6)), r"\(n, 6\)"),
    ],
)
def test_bad_input_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


FOLDS = [np.arange(60) % 5, np.arange(70) % 7]


def folded_slides() -> list[EmbeddedSlide]:
    slides = [slide(0, 60), slide(1, 70)]
    return [replace(s, fold=f, h_frame=s.h + 0.01) for s, f in zip(slides, FOLDS, strict=True)]


def refitted(
    slides: list[EmbeddedSlide], folds: list[np.ndarray], frame: FrameRegression
) -> list[np.ndarray]:
    """Positions (n, 2) per slide, the ridge problem solved anew without each fold."""
    data = frame_fit._Registered.of(slides, 0)
    width = 2 * frame.gamma * data.spread
    features = frame_fit._Features.of(data, slides, width, 0)
    found = []
    for s, (own, fold) in enumerate(zip(slides, folds, strict=True)):
        position = np.empty((len(own.h), 2))
        for part in np.unique(fold):
            kept = ~((data.slide == s) & np.isin(data.row, np.flatnonzero(fold == part)))
            ridge = Ridge(frame.penalty).fit(features.fitted[kept, 1:], data.target[kept])
            position[fold == part] = ridge.predict(features.slides[s][fold == part, 1:])
        found.append(position)
    return found


def test_starts_are_those_of_a_fit_without_the_fold() -> None:
    slides = folded_slides()
    frame, started = cross_fit(slides)
    np.testing.assert_array_equal(frame.weights, fitted(slides).weights)
    for s, z in zip(started, refitted(slides, FOLDS, frame), strict=True):
        expected = dense_mean_of_alike(z, s.h.astype(np.float64), frame.sharpness)
        np.testing.assert_allclose(s.start, expected, atol=2e-5)


def test_slides_without_folds_get_contiguous_parts() -> None:
    slides = [slide(0, 60), slide(1, 70)]
    folded = [replace(s, fold=spatial_blocks(s.xy)) for s in slides]
    for plain, given in zip(cross_fit(slides)[1], cross_fit(folded)[1], strict=True):
        np.testing.assert_array_equal(plain.start, given.start)


def test_settings_are_those_of_the_least_error_on_parts_left_out() -> None:
    """Every combination refitted with scikit-learn and compared by its Procrustes error."""
    slides = [slide(0, 90, 0.5), slide(1, 100, 0.5)]
    parts = [spatial_blocks(s.xy, 10) for s in slides]
    frame, spread = fitted(slides), frame_fit._Registered.of(slides, 0).spread
    errors = {}
    for width in frame_fit.WIDTHS:
        for penalty in frame_fit.PENALTIES:
            tried = replace(frame, gamma=width / (2 * spread), penalty=penalty)
            positions = refitted(slides, parts, tried)
            for sharpness in frame_fit.SHARPNESSES:
                errors[width, penalty, sharpness] = np.mean(
                    [
                        procrustes_rmse(dense_mean_of_alike(z, s.h.astype(float), sharpness), s.xy)
                        ** 2
                        for z, s in zip(positions, slides, strict=True)
                    ]
                )
    best = min(errors, key=lambda key: errors[key])
    assert (frame.gamma * 2 * spread, frame.penalty, frame.sharpness) == pytest.approx(best)
    assert len({round(error, 6) for error in errors.values()}) == len(errors), "all differ"


def test_noisier_embeddings_are_averaged_over_more_cells() -> None:
    clean, noisy = (fitted([slide(0, 300, n), slide(1, 300, n)]) for n in (0.02, 2.0))
    assert noisy.sharpness < clean.sharpness
