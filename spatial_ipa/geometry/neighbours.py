"""Nearest neighbours in any number of dimensions, in NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors


def nearest(
    query: np.ndarray, points: np.ndarray, k: int, *, same: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Distances and indices (n, k) of the k nearest points, in Euclidean distance.

    Args:
        query: (n, d).
        points: (m, d).
        k: at most m, or m - 1 with ``same``.
        same: ``query`` is ``points``: leave each point out of its own neighbours.
    """
    # The query of no points leaves each fitted point out of its own neighbours, also among ties.
    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(points)
    distance, index = search.kneighbors(None if same else query)
    return distance, index
