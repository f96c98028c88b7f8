"""Moran's index against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.spatial.distance import cdist

from spatial_ipa.data.expression import Expression, Normalisation
from spatial_ipa.encoder.moran import gene_weights, moran_index


def make_slide(seed: int, n: int = 60) -> tuple[Expression, np.ndarray]:
    """Gene 0 follows position, gene 5 is constant; row 4 is empty."""
    rng = np.random.default_rng(seed)
    xy = rng.random((n, 2))
    counts = rng.poisson(3.0, (n, 8)).astype(np.float32)
    counts[:, 0] = 9 * xy[:, 0]
    counts[:, 5] = 0
    counts[4] = 0
    return Expression.of_counts(sp.csr_matrix(counts), Normalisation("sqrt"), False), xy


def test_index_is_that_of_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    slide, xy = make_slide(0)
    z = slide.rows(slice(None)).astype(np.float64)
    distance = cdist(xy, xy) + np.diag(np.full(60, np.inf))
    means = np.stack([z[np.argsort(row)[:7]].mean(axis=0) for row in distance])
    square = np.square(z).sum(axis=0)
    expected = np.where(square > 0, (z * means).sum(axis=0) / np.where(square > 0, square, 1), 0)
    np.testing.assert_allclose(moran_index(slide, xy, 7), expected, atol=1e-5)
    monkeypatch.setattr("spatial_ipa.encoder.moran._BLOCK", 11)
    np.testing.assert_allclose(moran_index(slide, xy, 7), expected, atol=1e-5)
    assert expected[0] > 0.3
    assert expected[5] == 0


def test_weights_are_the_roots_of_mean_indices_and_never_negative() -> None:
    slides, coordinates = zip(*(make_slide(s) for s in (0, 1)), strict=True)
    index = np.mean([moran_index(s, xy) for s, xy in zip(slides, coordinates, strict=True)], axis=0)
    assert (index < 0).any()
    found = gene_weights(slides, coordinates)
    np.testing.assert_allclose(found**2, np.maximum(index, 0), atol=1e-12)
