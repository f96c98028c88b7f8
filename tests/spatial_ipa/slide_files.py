"""Slides written as files, and what is in them."""

from __future__ import annotations

import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import scipy.sparse as sp

N, G = 60, 30


def make(seed: int = 0) -> ad.AnnData:
    """60 spots on a grid, 30 genes, no empty spot."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(2.0, (N, G)) + (np.arange(G) == 0)
    obs = {"obs_names": [f"spot{i}" for i in range(N)], "patient": ["P1"] * N}
    data = ad.AnnData(
        sp.csr_matrix(counts.astype(np.int32)),
        obs=obs,
        var={"var_names": [f"G{g}" for g in range(G)]},
    )
    grid = np.stack(np.divmod(np.arange(N), 8), axis=1)
    data.obsm["spatial"] = grid.astype(np.float64)
    return data


def save(data: ad.AnnData, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*names are not unique.*")
        data.write_h5ad(path)
    return path


def dense(data: ad.AnnData) -> np.ndarray:
    return data.X.toarray().astype(np.float64)
