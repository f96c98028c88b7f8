"""Kernel ridge regression against dense formulas and against fits that never saw some rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from spatial_ipa.encoder.kernel_ridge import ExactRidge, LandmarkRidge, Ridge

N, M, PENALTY = 40, 12, 0.7


@pytest.fixture
def kernel() -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(N, 3))
    return np.exp(-cdist(x, x, "sqeuclidean") / 4)


@pytest.fixture
def targets() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(N, 5))


def landmark_fit(kernel: np.ndarray, targets: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Coefficients on the first M rows from the normal equations of some rows."""
    k = kernel[seen][:, :M]
    return np.linalg.solve(k.T @ k + PENALTY * kernel[:M, :M], k.T @ targets[seen])


def test_exact_solution_is_the_dense_one(kernel: np.ndarray, targets: np.ndarray) -> None:
    ridge = ExactRidge.fit(kernel, PENALTY)
    expected = np.linalg.solve(kernel + PENALTY * np.eye(N), targets)
    np.testing.assert_allclose(ridge.coefficients(targets), expected, atol=1e-10)
    np.testing.assert_allclose(ridge.predictions(targets), kernel @ expected, atol=1e-10)


def test_landmark_solution_is_that_of_the_normal_equations(
    kernel: np.ndarray, targets: np.ndarray
) -> None:
    ridge = LandmarkRidge.fit(kernel[:, :M], kernel[:M, :M], PENALTY)
    expected = landmark_fit(kernel, targets, np.arange(N))
    found = kernel[:, :M] @ ridge.coefficients(targets)
    np.testing.assert_allclose(found, kernel[:, :M] @ expected, atol=1e-5)
    np.testing.assert_allclose(ridge.predictions(targets), found, atol=1e-10)


def test_with_all_rows_as_landmarks_both_are_the_same_function(
    kernel: np.ndarray, targets: np.ndarray
) -> None:
    exact, all_rows = ExactRidge.fit(kernel, PENALTY), LandmarkRidge.fit(kernel, kernel, PENALTY)
    folds = [np.array([3, 7, 20]), np.array([5])]
    for a, b in (
        (exact.predictions(targets), all_rows.predictions(targets)),
        (exact.leave_one_out(targets), all_rows.leave_one_out(targets)),
        *(
            (kernel @ a, kernel @ b)
            for a, b in zip(
                exact.without(targets, folds), all_rows.without(targets, folds), strict=True
            )
        ),
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("rows", [[5], [0, 1, 2, 17, 30], list(range(10, 35))])
def test_what_is_left_out_is_predicted_as_by_a_fit_without_it(
    kernel: np.ndarray, targets: np.ndarray, rows: list[int]
) -> None:
    """25 rows are more than the 12 landmarks, which is another system to solve."""
    left_out = np.array(rows)
    seen = np.setdiff1d(np.arange(N), left_out)
    refit = np.linalg.solve(kernel[np.ix_(seen, seen)] + PENALTY * np.eye(len(seen)), targets[seen])
    (found,) = ExactRidge.fit(kernel, PENALTY).without(targets, [left_out])
    np.testing.assert_allclose(found[seen], refit, atol=1e-10)
    assert not found[left_out].any()
    (few,) = LandmarkRidge.fit(kernel[:, :M], kernel[:M, :M], PENALTY).without(targets, [left_out])
    expected = kernel[:, :M] @ landmark_fit(kernel, targets, seen)
    np.testing.assert_allclose(kernel[:, :M] @ few, expected, atol=1e-5)


@pytest.mark.parametrize("exact", [True, False])
def test_leave_one_out_is_every_row_left_out_in_turn(
    kernel: np.ndarray, targets: np.ndarray, exact: bool
) -> None:
    ridge: Ridge = ExactRidge.fit(kernel, PENALTY)
    basis = kernel
    if not exact:
        basis = kernel[:, :M]
        ridge = LandmarkRidge.fit(basis, kernel[:M, :M], PENALTY)
    without = ridge.without(targets, list(np.arange(N)[:, None]))
    expected = [row @ coefficients for row, coefficients in zip(basis, without, strict=True)]
    np.testing.assert_allclose(ridge.leave_one_out(targets), expected, atol=1e-8)


def test_equal_landmarks_do_not_break_the_factorisation(
    kernel: np.ndarray, targets: np.ndarray
) -> None:
    twice = np.r_[np.arange(M), np.arange(M)]
    ridge = LandmarkRidge.fit(kernel[:, twice], kernel[np.ix_(twice, twice)], PENALTY)
    expected = kernel[:, :M] @ landmark_fit(kernel, targets, np.arange(N))
    np.testing.assert_allclose(ridge.predictions(targets), expected, atol=1e-5)
