"""Spatial components: their equations, what they keep, and what they must not see."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA

from spatial_ipa.data.expression import Expression, Normalisation
from spatial_ipa.encoder.spatial_pca import principal_components, spatial_components


def make_data(seed: int, n: int = 150) -> tuple[Expression, np.ndarray]:
    """Gene 0 follows position; genes 1 and 2 vary more, without any relation to it."""
    rng = np.random.default_rng(seed)
    xy = rng.random((n, 2))
    values = rng.normal(size=(n, 30)) * 0.3
    values[:, 0] = 2 * xy[:, 0]
    values[:, 1:3] = 2 * rng.normal(size=(n, 2))
    return Expression.of_counts(sp.csr_matrix(values + 10), Normalisation("log"), logged=True), xy


@pytest.mark.parametrize("n", [20, 150])
def test_principal_components_are_those_of_sklearn(n: int) -> None:
    slide, _ = make_data(0, n)
    found = principal_components([slide], 5, seed=0)
    expected = PCA(5, svd_solver="full").fit(slide.rows(slice(None))).components_
    np.testing.assert_allclose(np.abs((expected @ found).diagonal()), 1, atol=1e-4)
    np.testing.assert_allclose(found.T @ found, np.eye(5), atol=1e-5)


def test_components_solve_the_generalised_eigenproblem() -> None:
    slides, coordinates = zip(*(make_data(s) for s in (0, 1)), strict=True)
    basis = principal_components(slides, 12, seed=0)
    found, eigenvalues = spatial_components(
        slides, coordinates, basis, num_components=4, num_neighbours=9, ridge=0.2
    )
    own, shared = np.zeros((12, 12)), np.zeros((12, 12))
    for slide, xy in zip(slides, coordinates, strict=True):
        z = slide.rows(slice(None)).astype(float) @ basis
        d = cdist(xy, xy)
        np.fill_diagonal(d, np.inf)
        smooth = z[np.argsort(d, axis=1)[:, :9]].mean(axis=1)
        own += z.T @ z / 150 / 2
        shared += (z.T @ smooth + smooth.T @ z) / 150 / 4
    shrunk = own + 0.2 * np.trace(own) / 12 * np.eye(12)
    w = (basis.T @ found) / eigenvalues  # the basis is orthonormal
    np.testing.assert_allclose(shared @ w, shrunk @ w * eigenvalues, atol=1e-4)
    np.testing.assert_allclose(w.T @ shrunk @ w, np.eye(len(eigenvalues)), atol=1e-4)
    assert (np.diff(eigenvalues) <= 0).all()
    assert (eigenvalues > 0).all()


def test_the_spatial_gene_comes_first_where_pca_puts_it_last() -> None:
    slide, xy = make_data(0)
    basis = principal_components([slide], 30, seed=0)
    assert np.abs(basis[:, 0]).argmax() in (1, 2)
    found, _ = spatial_components([slide], [xy], basis, num_neighbours=10, ridge=0.01)
    assert np.abs(found[:, 0]).argmax() == 0


def test_pose_of_a_slide_does_not_matter() -> None:
    slide, xy = make_data(0)
    basis = principal_components([slide], 10, seed=0)
    turn = np.array([[0.6, -0.8], [-0.8, -0.6]])  # with a reflection
    a, _ = spatial_components([slide], [xy], basis, num_neighbours=10)
    b, _ = spatial_components([slide], [5 * xy @ turn + 3], basis, num_neighbours=10)
    np.testing.assert_allclose(np.abs(a), np.abs(b), atol=1e-6)


def test_unusable_input_is_refused() -> None:
    slide, xy = make_data(0)
    basis = principal_components([slide], 10, seed=0)
    with pytest.raises(ValueError, match="ridge"):
        spatial_components([slide], [xy], basis, ridge=0.0)
    with pytest.raises(ValueError, match="1 slides and 2"):
        spatial_components([slide], [xy, xy], basis)
    with pytest.raises(ValueError, match="positive rank"):
        principal_components([slide], 0, seed=0)
