"""Nearest neighbours in NumPy, and how many of the tissue's an embedding keeps.

Ties.  Spots on a grid have neighbours at exactly equal distance.  A point counts as a true
neighbour of i if its distance is at most that of the k-th nearest, so there may be more than k of
them.  Where points tie for the last places, each gets the same share of what is left, which is the
mean over all ways to break the tie.  Distances within a relative ``TIE`` are equal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.neighbors import NearestNeighbors

from common.errors import UserError
from spatial_ipa.geometry.gauge import Array, checked_layout

TIE = 1e-6
"""Relative difference under which two neighbour distances count as equal (float32 rounding)."""

FULL_SIZE = 6000
"""Up to here every pair and every row is used, above it seeded samples of this many."""

_DRAWN_PAIRS = 2_000_000

CHUNK = 1 << 22
"""Distances held at once: 32 MB."""


def some_points(n: int, seed: int) -> NDArray[np.intp]:
    """All n points in order; of more than 6,000 so many drawn with ``seed``."""
    if n <= FULL_SIZE:
        return np.arange(n)
    return np.random.default_rng(seed).choice(n, FULL_SIZE, replace=False)


def some_pairs(n: int, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """All pairs i < j of n points; of more than 6,000 points 2,000,000 drawn pairs i != j."""
    if n <= FULL_SIZE:
        first, second = np.triu_indices(n, k=1)
        return first, second
    rng = np.random.default_rng(seed)
    first = rng.integers(n, size=_DRAWN_PAIRS)
    return first, (first + rng.integers(1, n, size=first.size)) % n  # never i itself


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


def point_distances(a: Array, b: Array) -> Array:
    """(rows of a, rows of b), by differences: the Gram form would lose ties to cancellation."""
    return np.hypot(a[:, None, 0] - b[None, :, 0], a[:, None, 1] - b[None, :, 1])


def nearest_weight(x: Array, rows: NDArray[np.intp], k: int) -> Array:
    """(rows, n) weights in [0, 1] that sum to k: 1 for nearer points, a share for tied ones."""
    d = point_distances(x[rows], x)
    d[np.arange(len(rows)), rows] = np.inf  # a point is no neighbour of its own
    kth = np.partition(d, k - 1, axis=1)[:, k - 1 : k]
    slack = TIE * kth + 1e-13 * np.abs(x).max()
    nearer = d < kth - slack
    tied = (d <= kth + slack) & ~nearer
    left = k - nearer.sum(axis=1, keepdims=True)
    return nearer + tied * (left / tied.sum(axis=1, keepdims=True))


def neighbour_recall(
    embedding: ArrayLike, xy: ArrayLike, k_true: int, k_candidates: int, *, seed: int = 0
) -> float:
    """Share of the k_true nearest points on the tissue found among the kNN of the embedding.

    Points tied at the k_true-th distance all count as neighbours and each has an equal share of
    the places left, so the figure is the mean over all ways to break the tie and chance is
    k_candidates / (n - 1).  Above n = 6,000 the mean runs over 6,000 rows drawn with ``seed``.

    Args:
        embedding: (n, d) features; Euclidean neighbours, the point itself left out.
        xy: (n, 2) true coordinates.
        k_true: true neighbours per point, usually ``adaptive_k(n)``.
        k_candidates: neighbours taken in the embedding.

    Returns:
        Recall in [0, 1].

    Raises:
        ValueError: for wrong shapes, values that are not finite, or a k outside [1, n - 1].
    """
    h, x = np.asarray(embedding, dtype=np.float64), checked_layout("xy", xy)
    if h.ndim != 2 or len(h) != len(x):
        raise UserError(f"embedding must have shape (n={len(x)}, d), got {h.shape}")
    if not np.isfinite(h).all():
        raise UserError("embedding must be finite; it holds NaN or infinite values")
    n = len(x)
    for name, k in (("k_true", k_true), ("k_candidates", k_candidates)):
        if not 1 <= k < n:
            raise UserError(f"{name} must lie in [1, n - 1] = [1, {n - 1}], got {k}")
    rows = some_points(n, seed)
    found = NearestNeighbors(n_neighbors=k_candidates + 1).fit(h).kneighbors(h[rows])[1]
    # Among coincident embeddings a point may come after others, or not at all: drop it by name.
    others = found != rows[:, None]
    others[others.all(axis=1), -1] = False
    candidates = found[others].reshape(len(rows), k_candidates)
    hits = 0.0
    for block in np.array_split(np.arange(len(rows)), -(-len(rows) * n // CHUNK)):
        weight = nearest_weight(x, rows[block], k_true)
        hits += float(np.take_along_axis(weight, candidates[block], axis=1).sum())
    return hits / (len(rows) * k_true)
