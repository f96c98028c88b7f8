"""Small sections of one tissue, in whose expression position can be read."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

SPOTS, GENES = 150, 120


def positions(seed: int, spots: int = SPOTS) -> np.ndarray:
    """(n, 2) random points of an ellipse."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform(-1, 1, (8 * spots, 2))
    return xy[(xy**2).sum(axis=1) < 1][:spots] * [700.0, 500.0]


def section(seed: int, xy: np.ndarray | None = None) -> ad.AnnData:
    """Poisson counts whose rates are smooth fields of position, the same for all seeds."""
    xy = positions(seed) if xy is None else xy
    x, y = xy.T / 500.0
    fields = np.stack([x, y, x * y, x**2, np.sin(3 * x + y), np.cos(2 * y - x)], axis=1)
    slopes = np.random.default_rng(99).normal(size=(6, GENES))
    counts = np.random.default_rng(seed + 500).poisson(np.exp(0.4 + 0.6 * fields @ slopes))
    return ad.AnnData(
        sp.csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame(index=[f"s{seed}_{i}" for i in range(len(xy))]),
        var=pd.DataFrame(index=[f"Gene{g}" for g in range(GENES)]),
        obsm={"spatial": xy.astype(np.float64)},
    )


def turned(data: ad.AnnData, angle: float) -> ad.AnnData:
    """The same section in another pose."""
    cos, sin = np.cos(angle), np.sin(angle)
    data.obsm["spatial"] = data.obsm["spatial"] @ np.array([[cos, sin], [-sin, cos]])
    return data


def joined(label: str, number: int = 3, index_unique: str | None = "-") -> ad.AnnData:
    """Sections on top of each other, each in a pose of its own, told apart by a column."""
    parts = {f"S{i}": turned(section(i), 2.1 * i) for i in range(number)}
    return ad.concat(parts, label=label, index_unique=index_unique)
