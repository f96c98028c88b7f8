"""Layout metrics against dense formulas of NumPy, SciPy and scikit-learn, and by invariance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment, minimize
from scipy.spatial import procrustes
from scipy.spatial.distance import cdist, pdist
from scipy.stats import spearmanr
from sklearn.manifold import trustworthiness

from spatial_ipa.geometry import metrics as M
from spatial_ipa.geometry import neighbours
from spatial_ipa.geometry.gauge import gauge_fix_array, procrustes_rotation
from spatial_ipa.geometry.neighbours import neighbour_recall


def noisy(n: int = 150, noise: float = 0.4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    target = rng.normal(size=(n, 2)) * [3.0, 1.0] + [40.0, -7.0]
    return target + noise * rng.normal(size=(n, 2)), target


def grid(side: int = 9) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2).astype(float)


def moved(x: np.ndarray, angle: float, mirror: bool, scale: float) -> np.ndarray:
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return scale * x @ turn * ([1.0, -1.0] if mirror else [1.0, 1.0]) + [5.0, -300.0]


def naive_recall(pred: np.ndarray, target: np.ndarray, k: int) -> float:
    """Plain double loop over points without ties."""
    dp, dt = cdist(pred, pred), cdist(target, target)
    hits = 0
    for i in range(len(pred)):
        mine = [j for j in np.argsort(dp[i]) if j != i][:k]
        true = [j for j in np.argsort(dt[i]) if j != i][:k]
        hits += len(set(mine) & set(true))
    return hits / (len(pred) * k)


def test_spearman_equals_scipy_on_all_pairs() -> None:
    pred, target = noisy()
    expected = spearmanr(pdist(pred), pdist(target)).statistic
    # Distances are compared to eight digits, so a few close ones tie that do not for SciPy.
    assert M.distance_spearman(pred, target) == pytest.approx(expected, abs=1e-7)


def test_spearman_equals_scipy_on_an_exact_grid() -> None:
    target = grid()
    pred = np.round(target + np.random.default_rng(0).normal(size=target.shape))
    # Squared distances of integer points are exact, so SciPy sees the same ties.
    expected = spearmanr(pdist(pred, "sqeuclidean"), pdist(target, "sqeuclidean")).statistic
    assert M.distance_spearman(pred, target) == pytest.approx(expected, abs=1e-12)


def test_spearman_of_a_sample_is_near_that_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    pred, target = noisy(300)
    full = M.distance_spearman(pred, target)
    monkeypatch.setattr(neighbours, "FULL_SIZE", 299)
    sampled = M.distance_spearman(pred, target, seed=3)
    assert sampled != full
    assert sampled == pytest.approx(full, abs=5e-3)
    assert M.distance_spearman(pred, target, seed=3) == sampled


@pytest.mark.parametrize("k", [1, 10, 30])
def test_recall_equals_a_plain_loop(k: int) -> None:
    pred, target = noisy(90)
    recall, chance = M.layout_recall(pred, target, k)
    assert recall == pytest.approx(naive_recall(pred, target, k), abs=1e-12)
    assert chance == pytest.approx(k / 89, abs=1e-12)


def test_recall_over_several_chunks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pred, target = noisy(90)
    whole = M.layout_recall(pred, target, 10)
    monkeypatch.setattr(M, "CHUNK", 1000)
    assert M.layout_recall(pred, target, 10) == pytest.approx(whole, abs=1e-12)


def test_recall_of_sampled_rows_is_near_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    pred, target = noisy(600)
    full, _ = M.layout_recall(pred, target, 90)
    monkeypatch.setattr(neighbours, "FULL_SIZE", 300)
    sampled, chance = M.layout_recall(pred, target, 90, seed=1)
    assert sampled == pytest.approx(full, abs=0.03)
    assert chance == pytest.approx(90 / 599, abs=1e-12)


def test_ties_of_the_truth_all_count_and_raise_the_chance_level() -> None:
    """On a 3 x 3 grid with k = 1 the true sets are 2 (corner), 3 (edge) and 4 (centre) large."""
    target = grid(3)
    recall, chance = M.layout_recall(target, target, 1)
    assert recall == pytest.approx(1.0)
    assert chance == pytest.approx((4 * 2 + 4 * 3 + 1 * 4) / 9 / 8)


def test_ties_of_the_prediction_count_as_the_mean_over_ways_to_break_them() -> None:
    target = grid(5)
    pred = np.round(target / 2)  # up to four points coincide, and blocks are equally far apart
    rng = np.random.default_rng(0)
    broken = [
        M.layout_recall(pred + 1e-3 * rng.normal(size=pred.shape), target, 6)[0] for _ in range(400)
    ]
    spread = float(np.std(broken)) / math.sqrt(len(broken))
    # Noise also perturbs ties between blocks unevenly, hence not an exact mean.
    assert M.layout_recall(pred, target, 6)[0] == pytest.approx(np.mean(broken), abs=0.02 + spread)


def test_a_collapsed_layout_has_exactly_the_chance_level() -> None:
    target = grid()
    result = M.layout_metrics(np.full_like(target, 7.3), target)
    assert result["recall_10"] == pytest.approx(result["chance_10"], abs=1e-12)
    assert result["recall_k"] == pytest.approx(result["chance_k"], abs=1e-12)
    assert result["procrustes_rmse"] == pytest.approx(1.0)
    assert math.isnan(result["spearman"])


def test_procrustes_equals_scipy_and_a_numerical_minimum() -> None:
    pred, target = noisy(60, noise=1.0)
    pred = moved(pred, 2.0, True, 0.3)
    ours = M.procrustes_rmse(pred, target)
    assert ours == pytest.approx(math.sqrt(procrustes(target, pred)[2]), abs=1e-12)

    t = target - target.mean(0)

    def cost(v: np.ndarray) -> float:
        a, b, c, d = v  # the general reflected similarity
        return float(((pred @ np.array([[a, b], [b, -a]]) + [c, d] - t) ** 2).sum())

    best = minimize(cost, np.zeros(4), method="BFGS", options={"gtol": 1e-10}).fun
    assert ours == pytest.approx(math.sqrt(best / (t**2).sum()), rel=1e-6)


@pytest.mark.parametrize("mirror", [False, True])
def test_procrustes_rotation_recovers_the_motion(mirror: bool) -> None:
    _, target = noisy(40)
    rotation, scale = procrustes_rotation(moved(target, 0.7, mirror, 5.0), target)
    assert np.linalg.det(rotation) == pytest.approx(-1.0 if mirror else 1.0)
    assert scale == pytest.approx(1.0)


def test_sliced_wasserstein_equals_scipy_along_each_direction() -> None:
    pred, target = noisy(50)
    p, t = gauge_fix_array(pred), gauge_fix_array(target)
    p = p @ procrustes_rotation(p, t)[0]
    squares = []
    for step in range(64):
        axis = [math.cos(math.pi * step / 64), math.sin(math.pi * step / 64)]
        # 1D optimal transport solved as an assignment, not by sorting.
        gap = np.subtract.outer(p @ axis, t @ axis) ** 2
        squares.append(gap[linear_sum_assignment(gap)].mean())
    expected = math.sqrt(np.mean(squares))
    assert M.sliced_wasserstein(pred, target) == pytest.approx(expected, abs=1e-12)


def test_trustworthiness_and_continuity_are_scikit_learns_with_swapped_roles() -> None:
    pred, target = noisy()
    result = M.layout_metrics(pred, target)
    swapped = M.layout_metrics(target, pred)
    expected = trustworthiness(target, pred, n_neighbors=20)
    assert result["trustworthiness"] == pytest.approx(expected, abs=1e-12)
    assert result["continuity"] == pytest.approx(swapped["trustworthiness"], abs=1e-12)
    assert result["continuity"] != pytest.approx(result["trustworthiness"], abs=1e-4)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("on_grid", [False, True])
def test_pose_scale_and_order_change_nothing(mirror: bool, on_grid: bool) -> None:
    pred, target = noisy(120)
    if on_grid:
        # Ties in trustworthiness are broken by row number, so the prediction has none.
        target = grid(11)[:120]
        pred = target + np.random.default_rng(5).normal(size=target.shape)
    base = M.layout_metrics(pred, target)
    order = np.random.default_rng(1).permutation(len(pred))
    turned = M.layout_metrics(moved(pred, 1.1, mirror, 0.02), moved(target, -0.4, False, 137.0))
    shuffled = M.layout_metrics(pred[order], target[order])
    exact = set(base)
    if on_grid:
        exact -= {"trustworthiness", "continuity"}
    for name in base:
        # 64 directions approximate a rotation-invariant mean.
        tolerance = 1e-3 if name == "sliced_wasserstein" else 1e-8
        tolerance = tolerance if name in exact else 0.02
        assert turned[name] == pytest.approx(base[name], abs=tolerance), name
        tolerance = 1e-10 if name in exact else 0.02
        assert shuffled[name] == pytest.approx(base[name], abs=tolerance), name


@pytest.mark.parametrize("target", [noisy(200)[1], grid(12)], ids=["scattered", "grid"])
def test_a_perfect_layout_in_another_pose(target: np.ndarray) -> None:
    result = M.layout_metrics(moved(target, 2.2, True, 1e-3), target)
    assert result["spearman"] == pytest.approx(1.0, abs=1e-9)
    assert result["recall_10"] == pytest.approx(1.0, abs=1e-12)
    assert result["recall_k"] == pytest.approx(1.0, abs=1e-12)
    assert result["procrustes_rmse"] == pytest.approx(0.0, abs=1e-9)
    assert result["sliced_wasserstein"] == pytest.approx(0.0, abs=1e-9)


def test_a_random_layout_is_at_chance() -> None:
    target = grid(18)
    results = [
        M.layout_metrics(np.random.default_rng(s).normal(size=target.shape), target)
        for s in range(8)
    ]
    mean = {key: np.mean([r[key] for r in results]) for key in results[0]}
    assert mean["spearman"] == pytest.approx(0.0, abs=0.02)
    assert mean["recall_10"] == pytest.approx(mean["chance_10"], rel=0.06)
    assert mean["recall_k"] == pytest.approx(mean["chance_k"], rel=0.04)
    assert mean["procrustes_rmse"] == pytest.approx(1.0, abs=0.01)
    assert mean["trustworthiness"] == pytest.approx(0.5, abs=0.03)


def test_worse_layouts_score_worse() -> None:
    results = [M.layout_metrics(*noisy(200, noise)) for noise in (0.1, 0.5, 2.0)]
    for name in ("spearman", "recall_10", "recall_k", "trustworthiness", "continuity"):
        assert results[0][name] > results[1][name] > results[2][name], name
    assert results[0]["procrustes_rmse"] < results[1]["procrustes_rmse"]


def test_gauge_fix_has_mean_zero_and_rms_radius_one() -> None:
    _, target = noisy()
    fixed = gauge_fix_array(target.astype(np.float32))
    assert fixed.dtype == np.float64
    np.testing.assert_allclose(fixed.mean(0), 0.0, atol=1e-12)
    assert (fixed**2).sum(1).mean() == pytest.approx(1.0)
    np.testing.assert_array_equal(gauge_fix_array(np.full((5, 2), 0.1)), 0.0)


@pytest.mark.parametrize(("n", "k"), [(96, 20), (133, 20), (140, 21), (384, 57), (1000, 150)])
def test_adaptive_k_is_the_specified_one(n: int, k: int) -> None:
    assert M.adaptive_k(n) == k


def test_neighbour_recall_equals_a_plain_loop_and_bounds() -> None:
    rng = np.random.default_rng(0)
    xy = rng.normal(size=(80, 2))
    h = np.concatenate([xy, rng.normal(size=(80, 3))], axis=1)
    dh, dx = cdist(h, h), cdist(xy, xy)
    hits = sum(len(set(np.argsort(dh[i])[1:31]) & set(np.argsort(dx[i])[1:21])) for i in range(80))
    assert neighbour_recall(h, xy, 20, 30) == pytest.approx(hits / (80 * 20), abs=1e-12)
    assert neighbour_recall(xy, xy, 20, 20) == pytest.approx(1.0)
    assert neighbour_recall(h, xy, 20, 79) == pytest.approx(1.0)


def test_neighbour_recall_of_coincident_embeddings_never_counts_the_point_itself() -> None:
    xy = grid(7)
    recall = neighbour_recall(np.zeros((49, 8)), xy, 5, 48)
    assert recall == pytest.approx(1.0)
    few = neighbour_recall(np.random.default_rng(0).normal(size=(49, 4)), xy, 5, 12)
    assert few == pytest.approx(12 / 48, abs=0.06)


@pytest.mark.parametrize(
    ("pred", "target", "message"),
    [
        (np.zeros((50, 3)), np.zeros((50, 2)), r"pred must have shape \(n, 2\), got \(50, 3\)"),
        (np.zeros((50, 2)), np.zeros((51, 2)), "as many rows, got 50 and 51"),
        (np.full((50, 2), np.nan), np.zeros((50, 2)), "pred must be finite, but 50"),
        (np.zeros((40, 2)), np.zeros((40, 2)), "at least 41 points, got 40"),
    ],
)
def test_bad_layouts_are_refused(pred: np.ndarray, target: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        M.layout_metrics(pred, target)


def test_bad_neighbourhood_sizes_are_refused() -> None:
    xy = grid(4)
    with pytest.raises(ValueError, match=r"k must lie in \[1, n - 1\] = \[1, 15\], got 16"):
        M.layout_recall(xy, xy, 16)
    with pytest.raises(ValueError, match="k_candidates must lie in"):
        neighbour_recall(xy, xy, 3, 0)
    with pytest.raises(ValueError, match="embedding must have shape"):
        neighbour_recall(xy[:3], xy, 3, 3)
