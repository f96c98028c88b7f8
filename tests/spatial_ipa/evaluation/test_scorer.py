"""The scorer of slides against dense formulas, and what must not change its numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist, pdist
from scipy.stats import spearmanr

from spatial_ipa.evaluation.scorer import MAX_ROWS, SlideScorer
from spatial_ipa.geometry.graphs import walk_steps
from spatial_ipa.model.targets import Target


def tissue(n: int, seed: int = 0) -> np.ndarray:
    """(n, 2) true coordinates in some unit, far from the origin."""
    return 500 + np.random.default_rng(seed).random((n, 2)) * [3000.0, 2000.0]


def prediction(n: int, seed: int = 0) -> np.ndarray:
    """A layout that is right in the large and wrong in detail."""
    xy = tissue(n, seed)
    return xy + 150 * np.random.default_rng(seed + 100).standard_normal((n, 2))


def scorer_of(n: int, seed: int = 0) -> SlideScorer:
    return SlideScorer(tissue(n), seed, num_minisets=4, size_min=50, size_max=70)


def gauge(x: np.ndarray) -> np.ndarray:
    x = x - x.mean(0)
    return x / np.sqrt((x**2).sum(1).mean())


def dense_walk_and_stress(
    x: np.ndarray, xy: np.ndarray, target: Target, k: int
) -> tuple[float, float]:
    """L_RW and L_stress from n x n matrices; graph and scales rebuilt from ``xy``.

    Only the random pairs and rows are taken from the target, being draws.
    """
    x, xy = gauge(x), gauge(xy)
    n = len(xy)
    d = cdist(xy, xy)
    near = np.argsort(d + np.where(np.eye(n, dtype=bool), np.inf, 0), axis=1)[:, :k]
    adjacent = np.zeros((n, n), bool)
    adjacent[np.arange(n)[:, None], near] = True
    adjacent |= adjacent.T
    scale = d[np.arange(n), near[:, -1]]

    def operator(c: np.ndarray) -> np.ndarray:
        w = np.where(adjacent, np.exp(-(cdist(c, c) ** 2) / np.outer(scale, scale)), 0)
        return w / w.sum(1, keepdims=True)

    rows = target.rows.numpy()
    t_true, t_pred = operator(xy), operator(x)
    p, q = np.eye(n), np.eye(n)
    rw = 0.0
    for s in range(walk_steps(n)):
        p, q = p @ t_true, q @ t_pred
        kl = (p * (np.log(p + 1e-12) - np.log(q + 1e-12))).sum(1)
        rw += 0.5**s * kl[rows].mean()
    i, j = target.pairs.numpy()
    ratio = np.log(np.linalg.norm(x[i] - x[j], axis=1) / np.linalg.norm(xy[i] - xy[j], axis=1))
    return rw, float(np.var(ratio))


@pytest.mark.parametrize(("n", "k"), [(80, 20), (180, 27)])
def test_whole_slide_equals_dense_formulas(n: int, k: int) -> None:
    scorer = scorer_of(n)
    found = scorer.score(prediction(n))
    rw, stress = dense_walk_and_stress(prediction(n), tissue(n), scorer.slide, k)
    assert rw > 0.05  # the comparison says something
    assert found["rw"] == pytest.approx(rw, rel=1e-3)
    assert found["stress"] == pytest.approx(stress, rel=1e-3)
    assert found["e_geo"] == pytest.approx(rw + 0.1 * stress, rel=1e-3)


def test_minisets_are_cut_out_of_both_layouts() -> None:
    scorer = scorer_of(180)
    found = scorer.score(prediction(180))
    values = []
    for b, members in enumerate(scorer.members):
        assert 50 <= len(members) <= 70
        inside = scorer.minisets.graph == b
        start = int(torch.nonzero(inside)[0])
        pairs = scorer.minisets.pairs[:, inside[scorer.minisets.pairs[0]]] - start
        rows = scorer.minisets.rows[inside[scorer.minisets.rows]] - start
        single = Target(**{**scorer.slide.__dict__, "pairs": pairs, "rows": rows})
        rw, stress = dense_walk_and_stress(
            prediction(180)[members], tissue(180)[members], single, 20
        )
        values.append(rw + 0.1 * stress)
    assert found["e_geo_minisets"] == pytest.approx(np.mean(values), rel=1e-3)


def test_spearman_is_that_of_all_distances() -> None:
    n = 90
    wanted = spearmanr(pdist(prediction(n)), pdist(tissue(n))).statistic
    assert scorer_of(n).score(prediction(n))["spearman"] == pytest.approx(wanted, abs=1e-5)


def test_perfect_layout() -> None:
    found = scorer_of(120).score(tissue(120))
    for name in ("e_geo", "e_geo_minisets", "rw", "stress", "procrustes_rmse"):
        assert abs(found[name]) < 1e-5, name
    for name in ("spearman", "recall_10", "recall_k", "trustworthiness", "continuity"):
        assert found[name] == pytest.approx(1, abs=1e-4), name
    assert found["eigenvalue_ratio"] > 0.2
    assert 0.8 < found["median_distance"] < 1.6


@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_pose_and_scale_of_the_prediction_do_not_matter(mirror: float) -> None:
    scorer, x = scorer_of(120), prediction(120)
    c, s = math.cos(0.8), math.sin(0.8)
    moved = 0.01 * x @ np.array([[c, -s], [mirror * s, mirror * c]]).T + [3.0, -7.0]
    plain, again = scorer.score(x), scorer.score(moved)
    assert plain.keys() == again.keys()
    for name, value in plain.items():
        assert again[name] == pytest.approx(value, rel=2e-3, abs=2e-3), name


def test_same_seed_same_numbers_and_other_seed_other_draws() -> None:
    x = prediction(120)
    first, again, other = (scorer_of(120, seed).score(x) for seed in (0, 0, 1))
    assert first == again
    assert first["e_geo_minisets"] != other["e_geo_minisets"]
    assert first["spearman"] == other["spearman"]  # no draw below 6,000 spots


def test_scoring_one_layout_does_not_change_the_next() -> None:
    scorer = scorer_of(120)
    first = scorer.score(prediction(120))
    scorer.score(prediction(120, 3))
    assert scorer.score(prediction(120)) == first


def test_worse_layouts_score_worse() -> None:
    scorer, n = scorer_of(120), 120
    noise = np.random.default_rng(0).standard_normal((n, 2))
    scores = [scorer.score(tissue(n) + level * noise) for level in (20, 200, 2000)]
    for name in ("e_geo", "e_geo_minisets", "procrustes_rmse"):
        values = [s[name] for s in scores]
        assert values == sorted(values), name
    values = [s["spearman"] for s in scores]
    assert values == sorted(values, reverse=True)


def test_collapsed_layouts_are_named_as_such() -> None:
    n = 120
    line = np.stack([np.arange(n), 1e-3 * np.random.default_rng(0).random(n)], 1)
    assert scorer_of(n).score(line)["eigenvalue_ratio"] < 0.01


def test_walks_of_large_slides_are_sampled() -> None:
    scorer = SlideScorer(tissue(MAX_ROWS + 40), num_minisets=1)
    assert len(scorer.slide.rows) == MAX_ROWS
    assert len(torch.unique(scorer.slide.rows)) == MAX_ROWS


@pytest.mark.parametrize("shape", [(119, 2), (120, 3), (240,), (2, 120)])
def test_bad_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"layout must be \(120, 2\)"):
        scorer_of(120).score(np.zeros(shape))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(value: float) -> None:
    x = prediction(120)
    x[7, 1] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        scorer_of(120).score(x)
