"""How well a predicted 2D layout matches the true one, whatever its pose and scale.

Everything is computed in float64 NumPy and is invariant to translation, rotation, reflection and
scale of either layout and to a joint permutation of the points (up to rounding, and up to the draw
where a sample is taken).  With ``d`` for distances and ``N_k(i)`` for nearest neighbours:

* ``spearman``: rank correlation of all n (n - 1) / 2 pairwise distances.
* ``recall_10``, ``recall_k``: share of the k nearest predicted points that are true neighbours,
  at k = 10 and at the adaptive k = max(20, int(0.15 n)); ``chance_10``, ``chance_k``: what a
  layout without any information reaches in the mean.
* ``procrustes_rmse``: min over similarities S of RMS(S(pred) - target) / RMS radius of the target,
  reflections allowed; closed form by SVD (Schönemann 1966; Kabsch 1976).  With optimal scale it
  is sqrt(1 - r^2) <= 1, where r is the Procrustes correlation.
* ``trustworthiness``, ``continuity`` at 20 neighbours (Venna and Kaski 2001), the second being the
  first with the roles of the layouts swapped.
* ``sliced_wasserstein``: W2 between the two gauge-fixed clouds (mean 0, RMS radius 1), the
  predicted one turned or mirrored onto the target by the Procrustes solution but not shrunk:
  sqrt of the mean over 64 directions at angles pi i / 64 of the squared 1D distance.

Ties.  Spots on a grid have neighbours at exactly equal distance.  A point counts as a true
neighbour of i if its distance is at most that of the k-th nearest, so there may be more than k of
them, and the chance level is their mean number over n - 1.  Where *predicted* points tie for the
last places, each gets the same share of what is left, which is the mean over all ways to break
the tie.  Hence a perfect layout has recall 1, a layout collapsed to a point has exactly the chance
level, and the order of the rows never matters.  Distances within a relative ``TIE`` are equal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from sklearn.manifold import trustworthiness
from sklearn.neighbors import NearestNeighbors

from common.errors import UserError
from spatial_ipa.geometry.graphs import adaptive_k

Array = NDArray[np.float64]

TIE = 1e-6
"""Relative difference under which two neighbour distances count as equal (float32 rounding)."""

MIN_POINTS = 41
"""Trustworthiness at 20 neighbours is defined for more than twice as many points."""

FULL_SIZE = 6000
"""Up to here every pair and every row is used, above it seeded samples of this many."""

_CHUNK = 1 << 22  # distances held at once: 32 MB


def _layout(name: str, xy: ArrayLike) -> Array:
    points = np.asarray(xy, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise UserError(f"{name} must have shape (n, 2), got {points.shape}")
    if not np.isfinite(points).all():
        bad = int((~np.isfinite(points)).any(axis=1).sum())
        raise UserError(f"{name} must be finite, but {bad} of its {len(points)} rows are not")
    return points


def _pair(pred: ArrayLike, target: ArrayLike) -> tuple[Array, Array]:
    p, t = _layout("pred", pred), _layout("target", target)
    if len(p) != len(t):
        raise UserError(f"pred and target must have as many rows, got {len(p)} and {len(t)}")
    return p, t


def gauge_fix(xy: ArrayLike) -> Array:
    """Subtract the mean and divide by the RMS radius; a layout of coincident points becomes 0.

    Args:
        xy: (n, 2) coordinates in any unit.

    Returns:
        (n, 2) float64, mean 0 and RMS radius 1.
    """
    points = _layout("xy", xy)
    extent = np.abs(points).max(initial=0.0)
    points = points - points.mean(axis=0)
    radius = np.sqrt((points**2).sum(axis=1).mean())
    # Subtracting the mean of equal points leaves rounding, which must not be blown up to radius 1.
    if radius <= 1e-13 * extent or radius == 0.0:
        return np.zeros_like(points)
    return points / radius


def procrustes_rotation(pred: ArrayLike, target: ArrayLike) -> tuple[Array, float]:
    """The orthogonal R and scale c minimising ||c gauge_fix(pred) R - gauge_fix(target)||.

    Args:
        pred: (n, 2) layout to be moved.
        target: (n, 2) layout it is moved onto, point by point.

    Returns:
        R, (2, 2) float64 with determinant +1 or -1, applied from the right to row vectors, and c,
        which is also the Procrustes correlation in [0, 1].
    """
    p, t = (gauge_fix(x) for x in _pair(pred, target))
    u, singular, vt = np.linalg.svd(p.T @ t)
    return u @ vt, min(float(singular.sum()) / len(p), 1.0)


def procrustes_rmse(pred: ArrayLike, target: ArrayLike) -> float:
    """RMS error after the best similarity (reflection allowed), over the target's RMS radius."""
    p, t = (gauge_fix(x) for x in _pair(pred, target))
    rotation, scale = procrustes_rotation(p, t)
    # Summed rather than sqrt(1 - c^2), which loses half the digits when the fit is good.
    return float(np.sqrt(((scale * p @ rotation - t) ** 2).sum(axis=1).mean()))


def sliced_wasserstein(pred: ArrayLike, target: ArrayLike, num_projections: int = 64) -> float:
    """W2 of the gauge-fixed clouds over fixed directions, ``pred`` turned but not shrunk."""
    p, t = (gauge_fix(x) for x in _pair(pred, target))
    rotation, _ = procrustes_rotation(p, t)
    angle = np.pi * np.arange(num_projections) / num_projections
    directions = np.stack([np.cos(angle), np.sin(angle)])  # (2, projections)
    gap = np.sort(p @ rotation @ directions, axis=0) - np.sort(t @ directions, axis=0)
    return float(np.sqrt((gap**2).mean()))


def _distance(a: Array, b: Array) -> Array:
    """(rows of a, rows of b), by differences: the Gram form would lose ties to cancellation."""
    return np.hypot(a[:, None, 0] - b[None, :, 0], a[:, None, 1] - b[None, :, 1])


def distance_spearman(pred: ArrayLike, target: ArrayLike, *, seed: int = 0) -> float:
    """Spearman correlation of pairwise distances, ties given their mean rank.

    All pairs up to n = 6,000; above it 2,000,000 pairs drawn with ``seed``, whose own sampling
    error is below 0.001.  NaN if all distances of a layout are equal (it collapsed to a point).
    """
    p, t = _pair(pred, target)
    n = len(p)
    if n <= FULL_SIZE:
        i, j = np.triu_indices(n, k=1)
    else:
        rng = np.random.default_rng(seed)
        i = rng.integers(n, size=2_000_000)
        j = (i + rng.integers(1, n, size=i.size)) % n  # never i itself
    ranks = []
    for x in (p, t):
        d = np.hypot(x[i, 0] - x[j, 0], x[i, 1] - x[j, 1])
        if np.ptp(d) <= 1e-13 * np.abs(x).max():
            return float("nan")
        # Eight digits, so that equal steps on a grid tie in whatever pose they are given.
        ranks.append(rankdata(np.round(d / d.max(), 8)))
    centred = [r - r.mean() for r in ranks]
    return float(centred[0] @ centred[1] / np.sqrt(np.prod([c @ c for c in centred])))


def layout_recall(
    pred: ArrayLike, target: ArrayLike, k: int, *, seed: int = 0
) -> tuple[float, float]:
    """Share of the k nearest predicted points that are true neighbours, and its chance level.

    Ties are treated as the module says.  Above n = 6,000 the mean runs over 6,000 points drawn
    with ``seed``; their neighbours are still sought among all points.

    Args:
        pred: (n, 2) predicted layout.
        target: (n, 2) true layout.
        k: neighbourhood size, 1 <= k < n.

    Returns:
        Recall and chance level, both in [0, 1].

    Raises:
        ValueError: for layouts of the wrong or different shape, or k out of range.
    """
    p, t = _pair(pred, target)
    n = len(p)
    if not 1 <= k < n:
        raise UserError(f"k must lie in [1, n - 1] = [1, {n - 1}], got {k}")
    rows = np.arange(n)
    if n > FULL_SIZE:
        rows = np.random.default_rng(seed).choice(n, FULL_SIZE, replace=False)
    hits = true_count = 0.0
    for block in np.array_split(rows, -(-len(rows) * n // _CHUNK)):
        true = _nearest_weight(t, block, k) > 0
        hits += float(_nearest_weight(p, block, k)[true].sum())
        true_count += float(true.sum())
    return hits / (len(rows) * k), true_count / (len(rows) * (n - 1))


def _nearest_weight(x: Array, rows: NDArray[np.intp], k: int) -> Array:
    """(rows, n) weights in [0, 1] that sum to k: 1 for nearer points, a share for tied ones."""
    d = _distance(x[rows], x)
    d[np.arange(len(rows)), rows] = np.inf  # a point is no neighbour of its own
    kth = np.partition(d, k - 1, axis=1)[:, k - 1 : k]
    slack = TIE * kth + 1e-13 * np.abs(x).max()
    nearer = d < kth - slack
    tied = (d <= kth + slack) & ~nearer
    left = k - nearer.sum(axis=1, keepdims=True)
    return nearer + tied * (left / tied.sum(axis=1, keepdims=True))


def layout_metrics(pred: ArrayLike, target: ArrayLike, *, seed: int = 0) -> dict[str, float]:
    """Every figure of the module for one slide.

    Args:
        pred: (n, 2) predicted coordinates, any pose and scale.
        target: (n, 2) true coordinates of the same points in the same order, any unit.
        seed: of the samples taken for n > 6,000; unused below.

    Returns:
        ``spearman``, ``recall_10``, ``chance_10``, ``recall_k``, ``chance_k``,
        ``procrustes_rmse``, ``trustworthiness``, ``continuity``, ``sliced_wasserstein``.

    Raises:
        ValueError: for a wrong shape, coordinates that are not finite, or n < 41.
    """
    p, t = _pair(pred, target)
    n = len(p)
    if n < MIN_POINTS:
        raise UserError(f"layout_metrics needs at least {MIN_POINTS} points, got {n}")
    recall_10, chance_10 = layout_recall(p, t, 10, seed=seed)
    recall_k, chance_k = layout_recall(p, t, adaptive_k(n), seed=seed)
    some = np.arange(n)
    if n > FULL_SIZE:  # the definition ranks all pairs of points: n^2 memory
        some = np.random.default_rng(seed).choice(n, FULL_SIZE, replace=False)
    return {
        "spearman": distance_spearman(p, t, seed=seed),
        "recall_10": recall_10,
        "chance_10": chance_10,
        "recall_k": recall_k,
        "chance_k": chance_k,
        "procrustes_rmse": procrustes_rmse(p, t),
        "trustworthiness": float(trustworthiness(t[some], p[some], n_neighbors=20)),
        "continuity": float(trustworthiness(p[some], t[some], n_neighbors=20)),
        "sliced_wasserstein": sliced_wasserstein(p, t),
    }


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
    h, x = np.asarray(embedding, dtype=np.float64), _layout("xy", xy)
    if h.ndim != 2 or len(h) != len(x):
        raise UserError(f"embedding must have shape (n={len(x)}, d), got {h.shape}")
    if not np.isfinite(h).all():
        raise UserError("embedding must be finite; it holds NaN or infinite values")
    n = len(x)
    for name, k in (("k_true", k_true), ("k_candidates", k_candidates)):
        if not 1 <= k < n:
            raise UserError(f"{name} must lie in [1, n - 1] = [1, {n - 1}], got {k}")
    rows = np.arange(n)
    if n > FULL_SIZE:
        rows = np.random.default_rng(seed).choice(n, FULL_SIZE, replace=False)
    found = NearestNeighbors(n_neighbors=k_candidates + 1).fit(h).kneighbors(h[rows])[1]
    # Among coincident embeddings a point may come after others, or not at all: drop it by name.
    others = found != rows[:, None]
    others[others.all(axis=1), -1] = False
    candidates = found[others].reshape(len(rows), k_candidates)
    hits = 0.0
    for block in np.array_split(np.arange(len(rows)), -(-len(rows) * n // _CHUNK)):
        weight = _nearest_weight(x, rows[block], k_true)
        hits += float(np.take_along_axis(weight, candidates[block], axis=1).sum())
    return hits / (len(rows) * k_true)
