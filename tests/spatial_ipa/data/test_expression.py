"""Normalised expression against dense NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.preprocessing import StandardScaler, normalize

from spatial_ipa.data.expression import gene_scale, normalise


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


def test_library_sizes_may_come_from_all_genes() -> None:
    """A row with counts elsewhere is expression 0, not an empty row."""
    x = counts()
    x[5, :10] = 0
    total = x.sum(1)
    y = np.log1p(1e4 * x[:, :10] / total[:, None])
    z = normalise(sp.csr_matrix(x[:, :10]), totals=total)
    np.testing.assert_allclose(z, y - y.mean(0), atol=2e-5)
    assert (z[5] != 0).any()


def test_logged_values_are_only_centred() -> None:
    y = np.log1p(counts())
    z = normalise(sp.csr_matrix(y), logged=True)
    np.testing.assert_allclose(z, y - y.mean(0), atol=1e-6)


def test_scale_is_that_of_the_training_slides() -> None:
    """Against scikit-learn on the joined slides; a gene that never varies stays zero."""
    train = [normalise(sp.csr_matrix(counts(seed))) for seed in (0, 1)]
    for slide in train:
        slide[:, 4] = 0.0
    std = gene_scale(train)
    np.testing.assert_allclose(std, StandardScaler().fit(np.vstack(train)).scale_, rtol=1e-5)
    assert std[4] == 1.0
    other = sp.csr_matrix(counts(2))
    np.testing.assert_allclose(normalise(other, gene_std=std), normalise(other) / std, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_sum": 0.0}, "target_sum must be positive, got 0.0"),
        ({"totals": np.ones(3)}, r"totals must have shape \(40,\), got \(3,\)"),
        ({"totals": np.zeros(40)}, "totals must be positive in every row that has counts"),
        ({"gene_std": np.ones(3)}, r"gene_std must be \(25,\) and positive"),
        ({"gene_std": np.zeros(25)}, "gene_std must be .* minimum 0"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normalise(sp.csr_matrix(counts()), **options)  # type: ignore[arg-type]


def test_scale_refuses_slides_that_disagree() -> None:
    with pytest.raises(ValueError, match="one number of genes"):
        gene_scale([np.zeros((2, 3)), np.zeros((2, 4))])
    with pytest.raises(ValueError, match="got 0 rows"):
        gene_scale([])
