"""Fields of expression, against scikit-learn's and SciPy's Gaussian processes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import multivariate_normal, norm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel

from spatial_ipa.layout import expression_field
from spatial_ipa.layout.expression_field import (
    COUNTS,
    LENGTHS,
    SHARES,
    ExpressionField,
    FieldSettings,
    leading_features,
)

SETTINGS = FieldSettings(0.45, np.array([0.9, 0.5, 0.0, 0.97, 0.3]))


def cells(seed: int, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 5)), rng.standard_normal((n, 2))


def dense(f: np.ndarray, x: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (q, m) of cells of the same slide."""
    mean, variance = [], []
    for k, a in enumerate(SETTINGS.share):
        kernel = ConstantKernel(max(a, 1e-12), "fixed") * RBF(SETTINGS.length, "fixed")
        fitted = GaussianProcessRegressor(kernel, alpha=1 - a, optimizer=None).fit(x, f[:, k])
        m, s = fitted.predict(at, return_std=True)
        mean.append(m)
        variance.append(s**2 + 1 - a)
    return np.stack(mean, axis=1), np.stack(variance, axis=1)


def test_prediction_is_that_of_a_gaussian_process() -> None:
    (f, x), (_, at) = cells(0), cells(1)
    mean, variance = ExpressionField.given(f, x, SETTINGS).predicted(at)
    r = expression_field._BETWEEN
    expected_mean, expected_variance = dense(f, x, at)
    np.testing.assert_allclose(mean, r * expected_mean, atol=1e-8)
    np.testing.assert_allclose(variance, 1 - r**2 * (1 - expected_variance), atol=1e-8)


def test_gains_are_ratios_of_likelihoods() -> None:
    (f, x), (g, at) = cells(0), cells(1)
    field = ExpressionField.given(f, x, SETTINGS)
    mean, variance = field.predicted(at)
    each = norm.logpdf(g, mean, np.sqrt(variance)) - norm.logpdf(g)
    expected = [each[:, :count].sum() for count in COUNTS]  # of 5 features, the last two agree
    np.testing.assert_allclose(field.gains(g, at), expected, atol=1e-9)
    table = field.table(g, at)
    assert table.shape == (len(COUNTS), len(at), len(g))
    np.testing.assert_allclose(np.einsum("cii->c", table), expected, atol=1e-9)


def test_nothing_is_known_far_away() -> None:
    (f, x), (g, at) = cells(0), cells(1)
    gains = ExpressionField.given(f, x, SETTINGS).gains(g, at + 100)
    np.testing.assert_allclose(gains, 0, atol=1e-12)


def test_settings_are_those_of_the_highest_likelihood() -> None:
    rng = np.random.default_rng(3)
    xy = [rng.standard_normal((60, 2)), rng.standard_normal((50, 2))]
    features = []
    for x in xy:
        kernel = np.exp(-(cdist(x, x) ** 2) / (2 * 0.45**2))
        drawn = rng.multivariate_normal(np.zeros(len(x)), kernel + 1e-9 * np.eye(len(x)), 2).T
        features.append(drawn * [1.0, 0.4] + rng.standard_normal(drawn.shape) * [0.1, 0.9])
    found = FieldSettings.fitted(features, xy)
    total = {}
    for length in LENGTHS:
        by_share = np.zeros((len(SHARES), 2))
        for i, a in enumerate(SHARES):
            for f, x in zip(features, xy, strict=True):
                covariance = a * np.exp(-(cdist(x, x) ** 2) / (2 * length**2))
                covariance += (1 - a) * np.eye(len(x))
                by_share[i] += multivariate_normal.logpdf(f.T, np.zeros(len(x)), covariance)
        total[length] = by_share.max(axis=0).sum()
        if length == found.length:
            np.testing.assert_array_equal(found.share, np.array(SHARES)[by_share.argmax(axis=0)])
    assert found.length == max(total, key=lambda length: total[length])


@pytest.mark.parametrize("width", [2, 5, 20])
def test_features_are_uncorrelated_over_all_slides(width: int) -> None:
    rng = np.random.default_rng(0)
    h = [rng.standard_normal((n, width)) * np.arange(1, width + 1) for n in (30, 40)]
    h = [np.hstack([x, x[:, :1]]) for x in h]  # one direction holds nothing
    found = np.concatenate(leading_features(h))
    assert found.shape == (70, min(width, COUNTS[-1]))
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-10)
    np.testing.assert_allclose(found.T @ found / 70, np.eye(found.shape[1]), atol=1e-10)
