"""Figures of pairs and of spacing against dense NumPy, SciPy and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.spatial.distance import cdist, pdist
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from spatial_ipa.geometry import distance_metrics as D
from spatial_ipa.geometry import neighbours
from spatial_ipa.geometry.metrics import layout_metrics

NAMES = ("edge_auc", "balanced_precision", "shell_f1", "stress_1")


def noisy(n: int = 180, noise: float = 0.8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    target = rng.normal(size=(n, 2)) * [3.0, 1.0] + [40.0, -7.0]
    return 0.2 * (target + noise * rng.normal(size=(n, 2))), target


def grid(side: int = 11) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2).astype(float)


def turned(x: np.ndarray, angle: float = 0.7) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    return 3.1 * x @ np.array([[c, s], [s, -c]]) + [5.0, -300.0]


def radius(target: np.ndarray) -> float:
    return float(np.median(np.sort(cdist(target, target), axis=1)[:, 50]))


def test_edges_equal_scikit_learn_on_the_dense_matrix() -> None:
    pred, target = noisy()
    near = pdist(target) <= radius(target)
    assert 0.1 < near.mean() < 0.6
    expected = roc_auc_score(near, -pdist(pred))
    assert layout_metrics(pred, target)["edge_auc"] == pytest.approx(expected, abs=1e-6)


def test_stress_is_the_least_over_scales() -> None:
    pred, target = noisy()
    d, p = pdist(target), pdist(pred)
    best = minimize_scalar(lambda a: ((d - a * p) ** 2).sum(), bracket=(1, 10)).fun
    found = layout_metrics(pred, target)["stress_1"]
    assert found == pytest.approx(math.sqrt(best / (d @ d)), rel=1e-9)


def test_shells_equal_scikit_learns_f1() -> None:
    pred, target = noisy()
    d, p = pdist(target), pdist(pred)
    p = p * (d @ p) / (p @ p)
    edges = np.quantile(d, np.linspace(0, 1, 11))
    true_shell, shell = np.searchsorted(edges[1:-1], d, "right"), np.searchsorted(edges[1:-1], p)
    expected = f1_score(true_shell, shell, labels=range(5), average="macro")
    assert 0.2 < expected < 0.9
    assert layout_metrics(pred, target)["shell_f1"] == pytest.approx(expected, abs=1e-4)


def test_balanced_precision_equals_scikit_learn_and_the_mean_over_draws() -> None:
    pred, target = noisy()
    d, p, r = cdist(target, target), cdist(pred, pred), radius(target)
    rng, weighted, drawn = np.random.default_rng(4), [], []
    for i in range(len(d)):
        near = [j for j in range(len(d)) if j != i and d[i, j] <= r]
        other = [j for j in range(len(d)) if d[i, j] > r]
        if not near or not other:
            continue
        label = np.repeat([1, 0], [len(near), len(other)])
        weight = np.where(label, 1.0, len(near) / len(other))
        score = -p[i, near + other]
        weighted.append(average_precision_score(label, score, sample_weight=weight))
        chosen = list(rng.choice(other, min(len(near), len(other)), replace=False))
        label = np.repeat([1, 0], [len(near), len(chosen)])
        drawn.append(average_precision_score(label, -p[i, near + chosen]))
    found = layout_metrics(pred, target)["balanced_precision"]
    assert found == pytest.approx(np.mean(weighted), abs=1e-6)
    assert found == pytest.approx(np.mean(drawn), abs=0.01)
    assert 0.6 < found < 0.97


def test_perfect_and_random_layouts() -> None:
    pred, target = noisy()
    perfect = layout_metrics(turned(target), target)
    assert [perfect[name] for name in NAMES] == pytest.approx([1, 1, 1, 0], abs=1e-6)
    chance = layout_metrics(np.random.default_rng(1).normal(size=target.shape), target)
    assert chance["edge_auc"] == pytest.approx(0.5, abs=0.03)
    assert chance["balanced_precision"] == pytest.approx(0.5, abs=0.05)
    found = layout_metrics(pred, target)
    assert all(chance[name] < found[name] < 1 for name in NAMES[:3])
    assert 0 < found["stress_1"] < chance["stress_1"]


def test_a_collapsed_layout() -> None:
    _, target = noisy()
    found = layout_metrics(np.full_like(target, 7.3), target)
    assert found["edge_auc"] == 0.5
    assert found["balanced_precision"] == pytest.approx(0.5)
    assert found["stress_1"] == 1.0
    assert 0 <= found["shell_f1"] < 0.1
    assert math.isnan(found["nearest_cv"])
    assert found["nearest_q05"] == 0.0


def test_a_grid_is_the_same_in_every_pose() -> None:
    """Its distances tie, also with the radius and the bounds of shells."""
    target = grid()
    pred = np.round(target + 0.8 * np.random.default_rng(0).normal(size=target.shape))
    plain, again = layout_metrics(pred, target), layout_metrics(turned(pred), turned(target, 2.0))
    for name in NAMES:
        assert again[name] == pytest.approx(plain[name], abs=1e-9), name


def test_samples_of_large_layouts_are_near_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pred, target = noisy(400)
    full = layout_metrics(pred, target)
    monkeypatch.setattr(neighbours, "FULL_SIZE", 300)
    sampled = layout_metrics(pred, target, seed=2)
    for name in NAMES:
        assert sampled[name] != full[name]
        assert sampled[name] == pytest.approx(full[name], abs=0.01), name
    assert layout_metrics(pred, target, seed=2) == sampled


def test_spacing_of_a_grid_of_clumps_and_of_random_points() -> None:
    target = grid(20)
    spacing = 1 / math.sqrt(2 * (400 - 1) / 12)  # of a 20 x 20 grid, in its RMS radii
    assert D.nearest_distances(turned(target)) == pytest.approx(np.full(400, spacing), rel=1e-9)
    assert D.nearest_variation(target) == pytest.approx(0.0, abs=1e-9)
    found = layout_metrics(target + 0.4 * np.random.default_rng(0).normal(size=(400, 2)), target)
    assert found["nearest_cv"] > 0.2 > found["nearest_cv_true"]
    assert found["nearest_q05"] < 0.5 * found["nearest_q05_true"]
    assert found["nearest_q05_true"] == pytest.approx(spacing, rel=1e-9)
    # Of a Poisson process distances to the nearest are Rayleigh: CV = sqrt(4 / pi - 1).
    poisson = np.random.default_rng(1).random((20_000, 2))
    assert D.nearest_variation(poisson) == pytest.approx(math.sqrt(4 / math.pi - 1), abs=0.01)


def test_nearest_equals_the_dense_matrix() -> None:
    x = np.random.default_rng(2).normal(size=(70, 2))
    centred = x - x.mean(0)
    d = cdist(x, x) + np.where(np.eye(70, dtype=bool), np.inf, 0.0)
    expected = d.min(axis=1) / math.sqrt((centred**2).sum(1).mean())
    assert D.nearest_distances(x) == pytest.approx(expected, rel=1e-12)
    assert D.nearest_quantile(x) == pytest.approx(np.percentile(expected, 5), rel=1e-12)
