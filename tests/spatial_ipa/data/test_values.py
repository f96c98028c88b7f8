"""Counts and logarithms: dcjones/proseg#62, constantAmateur/SoupX#63, scverse/scvi-tutorials#66."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from tissue_sections import section

from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.read import read_slides
from spatial_ipa.data.run import read_run
from spatial_ipa.data.slide import Slide
from spatial_ipa.data.values import judge_values


def expected(seed: int, largest: float) -> ad.AnnData:
    """Expected counts with decimals, none of which reaches 20 but perhaps one."""
    data, rng = section(seed), np.random.default_rng(seed + 70)
    data.X.data = np.minimum(data.X.data, 18) + rng.uniform(-0.3, 0.3, data.X.nnz)
    data.X.data[data.X.data.argmax()] = largest
    return data


@pytest.mark.filterwarnings("ignore:.*X is taken as")
@pytest.mark.parametrize("largest", [17.0, 19.9, 25.4, 400.0])
def test_no_single_value_decides_what_a_matrix_holds(largest: float) -> None:
    assert not Slide.from_anndata(expected(0, largest)).is_logged
    logged = section(1)
    logged.X = np.log1p(scaled(logged.X.toarray(), 1e4))
    logged.X[0, 0] = largest
    assert Slide.from_anndata(logged).is_logged


def scaled(x: np.ndarray, depth: float) -> np.ndarray:
    return depth * x / x.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("change", "logged"),
    [
        (lambda x: np.log1p(scaled(x, 1e4)), True),
        (lambda x: np.log2(1 + scaled(x, 1e6)), True),
        (lambda x: np.log1p(scaled(x, 1e4))[:, ::5], True),
        (lambda x: np.log1p(x), True),
        (lambda x: np.log1p(scaled(x / np.linspace(1, 5, x.shape[1]), 1e6)), True),
        (lambda x: scaled(x, 1e4), False),
        (lambda x: x * 0.25, False),
        (lambda x: np.maximum(x - 0.1 * x.mean(axis=0), 0), False),
        (lambda x: x * np.random.default_rng(0).uniform(0.5, 1, x.shape), False),
        (lambda x: np.where(x > 0, np.random.default_rng(0).gamma(np.maximum(x, 0.1)), 0), False),
    ],
    ids=["log CP10k", "log2 CPM", "some genes of log CP10k", "log1p", "log TPM",
         "CP10k", "quarters", "ambient removed", "expected", "gamma"],
)  # fmt: skip
def test_counts_and_logarithms_are_told_apart(
    change: Callable[[np.ndarray], np.ndarray], logged: bool
) -> None:
    for seed in range(3):
        values = change(section(seed).X.toarray().astype(np.float64))
        assert judge_values(sp.csr_matrix(values.astype(np.float32))).logged is logged


@pytest.mark.filterwarnings("ignore:.*X is taken as")
def test_one_run_does_not_mix_counts_and_logarithms(tmp_path: Path) -> None:
    for seed in range(2):
        expected(seed, 19.0 + 6 * seed).write_h5ad(tmp_path / f"decimals{seed}.h5ad")
    logged = section(2)
    logged.X = np.log1p(scaled(logged.X.toarray(), 1e4))
    logged.write_h5ad(tmp_path / "logged.h5ad")
    assert [s.is_logged for s in read_slides(sorted(tmp_path.glob("dec*")))] == [False, False]
    message = r"mixes counts \(decimals0, decimals1\) and log-normalised values \(logged\)"
    with pytest.raises(ValueError, match=message):
        read_slides(tmp_path)
    files = [str(path) for path in sorted(tmp_path.glob("dec*"))]
    with pytest.raises(ValueError, match=message):
        read_run(files, scrna=str(tmp_path / "logged.h5ad"))
    stated = SlideKeys(values="logged")
    read = read_run(files, scrna=str(tmp_path / "logged.h5ad"), scrna_keys=stated)
    assert [s.is_logged for s in (*read.train, *read.samples)] == [False, False, True]
    assert all(s.is_logged for s in read_slides(tmp_path, stated))
