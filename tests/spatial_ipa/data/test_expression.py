"""Normalised expression against dense NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.preprocessing import normalize

from spatial_ipa.data.expression import Expression, Normalisation, Transform, normalise


def counts(seed: int = 0, num: int = 40, genes: int = 25) -> np.ndarray:
    return np.random.default_rng(seed).poisson(1.5, (num, genes)).astype(np.float64) + 0.0


def test_equals_the_dense_formula() -> None:
    x = counts()
    y = np.log1p(1e4 * normalize(x, norm="l1"))
    z = normalise(sp.csr_matrix(x))
    assert z.dtype == np.float32
    np.testing.assert_allclose(z, y - y.mean(0), atol=2e-5)


def test_depth_does_not_matter_and_centre_is_zero() -> None:
    x = counts()
    deeper = x * np.random.default_rng(1).integers(1, 50, (40, 1))
    z = normalise(sp.csr_matrix(x))
    np.testing.assert_allclose(normalise(sp.csr_matrix(deeper)), z, atol=2e-5)
    np.testing.assert_allclose(z.mean(0), 0, atol=2e-6)


def test_empty_rows_are_zero_and_change_no_other_row() -> None:
    x = counts()
    filled = normalise(sp.csr_matrix(x))
    with_empty = normalise(sp.csr_matrix(np.vstack([x[:10], np.zeros((3, 25)), x[10:]])))
    np.testing.assert_array_equal(with_empty[10:13], 0)
    np.testing.assert_array_equal(np.delete(with_empty, [10, 11, 12], axis=0), filled)
    np.testing.assert_array_equal(normalise(sp.csr_matrix((4, 3))), np.zeros((4, 3)))
    assert normalise(sp.csr_matrix((0, 3))).shape == (0, 3)


def test_logged_values_are_only_centred() -> None:
    y = np.log1p(counts())
    z = normalise(sp.csr_matrix(y), logged=True)
    np.testing.assert_allclose(z, y - y.mean(0), atol=1e-6)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"target_sum must be positive, got 0\.0"):
        normalise(sp.csr_matrix(counts()), target_sum=0.0)


def z_of(x: np.ndarray, transform: Transform, logged: bool = False) -> np.ndarray:
    return Expression.of_counts(sp.csr_matrix(x), Normalisation(transform), logged).rows(
        slice(None)
    )


@pytest.mark.parametrize("transform", ["sqrt", "freeman_tukey"])
def test_root_transforms_are_those_of_the_module(transform: Transform) -> None:
    x = counts()
    x[7] = 0
    kept = np.arange(40) != 7
    u = 1e4 * x[kept].astype(np.float64) / x[kept].sum(axis=1, keepdims=True)
    y = np.sqrt(u) if transform == "sqrt" else np.sqrt(u) + np.sqrt(u + 1)
    expected = (y - y.mean(axis=0)) / np.sqrt(y.var(axis=0).mean())
    z = z_of(x, transform)
    np.testing.assert_allclose(z[kept], expected, atol=2e-5)
    assert not z[7].any()


@pytest.mark.parametrize("transform", ["sqrt", "freeman_tukey"])
def test_logged_values_give_what_the_counts_give(transform: Transform) -> None:
    """Whatever a cell was scaled by before the logarithm."""
    x = counts()
    scaled = x * np.random.default_rng(0).uniform(1, 50, (40, 1))
    logged = z_of(np.log1p(scaled), transform, logged=True)
    np.testing.assert_allclose(logged, z_of(x, transform), atol=2e-4)


def test_depth_does_not_change_the_root() -> None:
    x = counts()
    np.testing.assert_allclose(z_of(30 * x, "sqrt"), z_of(x, "sqrt"), atol=2e-5)
    np.testing.assert_array_equal(z_of(np.ones((5, 4)), "sqrt"), np.zeros((5, 4)))
    assert z_of(np.zeros((0, 4)), "sqrt").shape == (0, 4)
    assert z_of(np.zeros((3, 4)), "sqrt").tolist() == [[0.0] * 4] * 3


def test_weights_and_rows_are_taken_after_centring() -> None:
    x = Expression.of_counts(sp.csr_matrix(counts()), Normalisation("sqrt"), False)
    z, w = x.rows(slice(None)), np.random.default_rng(0).random(x.values.shape[1])
    np.testing.assert_allclose(x.weighted(w).rows(slice(None)), z * w, atol=1e-5)
    rows = np.array([4, 1, 30])
    np.testing.assert_array_equal(x.subset(rows).rows(slice(None)), z[rows])


def test_an_unknown_transform_is_refused() -> None:
    with pytest.raises(ValueError, match=r"genes\.transform must be one of sqrt, .*got 'asinh'"):
        Normalisation("asinh")  # type: ignore[arg-type]


@pytest.mark.parametrize("logged", [False, True])
def test_dense_and_sparse_forms_agree(logged: bool) -> None:
    """The same y; the means differ by the rounding of their sums."""
    x = counts()
    x[7] = 0
    dense = normalise(sp.csr_matrix(x), logged=logged)
    sparse = Expression.of_counts(sp.csr_matrix(x), Normalisation("log"), logged)
    np.testing.assert_allclose(sparse.rows(slice(None)), dense, atol=2e-5)
    np.testing.assert_array_equal(sparse.filled, np.arange(40) != 7)
