"""The better of several positions: against one, against brute force, and its invariances."""

from __future__ import annotations

import numpy as np
import pytest

from spatial_ipa.geometry.metrics import procrustes_rmse
from spatial_ipa.geometry.several import best_layout_rmse, nearest_hypothesis


def two_sides(n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """True positions, and each with its mirror image in random order."""
    rng = np.random.default_rng(seed)
    true = rng.uniform(-1, 1, (n, 2))
    pair = np.stack([true, true * [-1, 1]], axis=1)
    swap = rng.random(n) < 0.5
    pair[swap] = pair[swap, ::-1]
    return pair, true


def test_one_hypothesis_is_the_procrustes_error() -> None:
    rng = np.random.default_rng(1)
    true = rng.standard_normal((50, 2))
    layout = true @ [[0.6, 0.8], [0.8, -0.6]] * 7 + 3 + rng.standard_normal((50, 2))
    apart, error = nearest_hypothesis(layout[:, None], true)
    assert error == pytest.approx(procrustes_rmse(layout, true), abs=1e-12)
    assert np.sqrt((apart**2).mean()) == pytest.approx(error)
    assert best_layout_rmse(layout[:, None], true) == pytest.approx(error, abs=1e-12)


def test_the_right_one_of_two_costs_nothing() -> None:
    pair, true = two_sides()
    apart, error = nearest_hypothesis(pair, true)
    assert error == pytest.approx(0, abs=1e-9)
    assert best_layout_rmse(pair, true) > 0.5  # no whole layout has all sides right
    assert apart.shape == (60, 2)


def test_pose_and_scale_of_either_do_not_matter() -> None:
    pair, true = two_sides()
    pair = pair + 0.2 * np.random.default_rng(3).standard_normal(pair.shape)
    turn = np.array([[0.6, 0.8], [0.8, -0.6]])
    _, error = nearest_hypothesis(pair, true)
    _, posed = nearest_hypothesis(5 * pair @ turn + [9, -4], 0.1 * true + 2)
    assert posed == pytest.approx(error, rel=0.02)  # found by a search
    order = np.random.default_rng(4).permutation(len(true))
    assert nearest_hypothesis(pair[order], true[order])[1] == pytest.approx(error, rel=1e-6)


def test_nearly_as_good_as_brute_force() -> None:
    """All choices of one hypothesis per point, each with its own best similarity."""
    rng = np.random.default_rng(5)
    for _ in range(10):
        true, pair = rng.standard_normal((7, 2)), rng.standard_normal((7, 2, 2))
        best = min(
            procrustes_rmse(pair[np.arange(7), [(c >> i) & 1 for i in range(7)]], true)
            for c in range(2**7)
        )
        _, error = nearest_hypothesis(pair, true)
        assert best - 1e-9 <= error <= 1.1 * best


def test_a_further_hypothesis_never_hurts() -> None:
    rng = np.random.default_rng(6)
    true = rng.standard_normal((40, 2))
    pair = true[:, None] + 0.5 * rng.standard_normal((40, 3, 2))
    errors = [nearest_hypothesis(pair[:, :m], true)[1] for m in (1, 2, 3)]
    assert errors[0] > errors[1] > errors[2]


def test_coincident_hypotheses_have_the_error_of_a_point() -> None:
    true = np.random.default_rng(7).standard_normal((10, 2))
    assert nearest_hypothesis(np.ones((10, 2, 2)), true)[1] == 1.0


@pytest.mark.parametrize("shape", [(10, 2), (9, 2, 2), (10, 2, 3), (10, 0, 2)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"hypotheses must have shape \(10, M, 2\)"):
        nearest_hypothesis(np.zeros(shape), np.zeros((10, 2)))
