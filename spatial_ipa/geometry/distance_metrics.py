"""Comparisons of two layouts by which pairs of points are near, and the spacing of one layout.

The first four are those of GEARS ("Geometry-First Generative Spatial Single-Cell Reconstruction",
KDD 2026), defined as in ``gears/eval/metrics.py`` of github.com/ehtesam3154/GEARS, commit 621d101.
With d for true and p for predicted distances, a pair (i, j) of points is *near* if d_ij <= R, where
R is the median over points of the distance to the 50th nearest:

* ``edge_auc``: area under the ROC curve of -p_ij for near against other pairs.
* ``balanced_precision``: mean over points i of the average precision of -p_ij for the near points
  of i among all, those that are not near weighted so that both kinds weigh the same.  Chance is
  about 0.5.
* ``shell_f1``: pairs are sorted into ten shells by the deciles of d, and by a p_ij into the same
  shells; mean over the five inner shells of F1, the harmonic mean of precision and recall.
* ``stress_1``: sqrt(sum (d - a p)^2 / sum d^2) (Kruskal 1964), where a = sum d p / sum p^2 is the
  scale of least squares.

Ours differ from theirs in three points.  Instead of weighting, GEARS draws as many points that are
not near; weighting is the mean over draws to within 0.01 and draws nothing.  Distances that are
equal within rounding (1e-6 for R, eight digits elsewhere) count as equal, so that a grid gives the
same figures in whatever pose it comes.  A layout collapsed to a point has a = 0, where theirs
divides by zero: Stress-1 is 1, the AUC 0.5.

All pairs are used up to n = 6,000, above it 2,000,000 drawn with ``seed``; the mean over points
runs over 6,000 of them.

``nearest_distances`` are of one layout: the distance of each point to its nearest, over the RMS
radius.  Their coefficient of variation and lowest twentieth tell layouts whose points clump from
those as even as the tissue: compare them with those of the truth.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from spatial_ipa.geometry.gauge import Array, gauge_fix_array
from spatial_ipa.geometry.neighbours import CHUNK, TIE, point_distances, some_pairs, some_points
from spatial_ipa.geometry.ranking import average_precision, roc_auc

NEAR = 50
"""Neighbours by which the radius of near pairs is set."""

_SHELLS, _INNER = 10, 5


def pair_distances(pred: Array, target: Array, seed: int) -> tuple[Array, Array]:
    """(P,) predicted and true distances of :func:`some_pairs`."""
    i, j = some_pairs(len(target), seed)
    p, t = (np.hypot(x[i, 0] - x[j, 0], x[i, 1] - x[j, 1]) for x in (pred, target))
    return p, t


def near_radius(target: Array) -> float:
    """R: median over points of the distance to the 50th nearest, or to the farthest if fewer."""
    k = min(NEAR, len(target) - 1)
    return float(np.median(cKDTree(target).query(target, k + 1)[0][:, -1])) * (1 + TIE)


def edge_auc(distances: tuple[Array, Array], radius: float) -> float:
    """ROC-AUC of predicted distances for near pairs; NaN if all pairs are near."""
    pred, true = distances
    return roc_auc(true <= radius, -_digits(pred))


def stress_1(distances: tuple[Array, Array]) -> float:
    """Kruskal's Stress-1 at the best scale, in [0, 1]."""
    pred, true = distances
    return float(np.sqrt(((true - _scale(pred, true) * pred) ** 2).sum() / (true**2).sum()))


def shell_f1(distances: tuple[Array, Array]) -> float:
    """Mean F1 of the five inner of ten shells of true distance, predictions scaled to fit."""
    pred, true = distances
    unit = true.max()
    d, p = np.round(true / unit, 8), np.round(_scale(pred, true) * pred / unit, 8)
    edges = np.quantile(d, np.arange(1, _SHELLS) / _SHELLS)
    true_shell, pred_shell = np.digitize(d, edges), np.digitize(p, edges)
    values = []
    for shell in range(_INNER):
        own, found = true_shell == shell, pred_shell == shell
        both = int(own.sum()) + int(found.sum())
        # F1 = 2 TP / (2 TP + FP + FN); a shell that neither has any pair of counts as missed.
        values.append(2 * int((own & found).sum()) / both if both else 0.0)
    return float(np.mean(values))


def balanced_precision(pred: Array, target: Array, radius: float, seed: int) -> float:
    """Mean over points of the average precision of near points, the others weighing as much.

    Points that have no near ones, or only such, are left out; NaN if none is left.
    """
    n, points = len(target), some_points(len(target), seed)
    placed, found = gauge_fix_array(pred), []
    for block in np.array_split(points, -(-len(points) * n // CHUNK)):
        true_near = point_distances(target[block], target) <= radius
        # Eight digits of the radius of the layout.
        score = -np.round(point_distances(placed[block], placed), 8)
        for row, i in enumerate(block):
            near = np.delete(true_near[row], i)
            count = int(near.sum())
            if 0 < count < n - 1:
                weight = count / (n - 1 - count)
                found.append(average_precision(near, np.delete(score[row], i), weight))
    return float(np.mean(found)) if found else float("nan")


def nearest_distances(xy: ArrayLike) -> Array:
    """(n,) distance of each point to its nearest, in RMS radii; 0 in a layout of one place.

    Raises:
        ValueError: for another shape than (n, 2), or coordinates that are not finite.
    """
    points = gauge_fix_array(xy)
    return np.asarray(cKDTree(points).query(points, 2)[0][:, 1], dtype=np.float64)


def nearest_variation(xy: ArrayLike) -> float:
    """Standard deviation over mean of :func:`nearest_distances`; NaN if every point has a twin."""
    distance = nearest_distances(xy)
    mean = float(distance.mean())
    return float(distance.std()) / mean if mean > 0 else float("nan")


def nearest_quantile(xy: ArrayLike, share: float = 0.05) -> float:
    """The quantile of :func:`nearest_distances` below which ``share`` of the points lie."""
    return float(np.quantile(nearest_distances(xy), share))


def _scale(pred: Array, true: Array) -> float:
    square = float(pred @ pred)
    return float(pred @ true) / square if square > 0 else 0.0


def _digits(distance: Array) -> Array:
    """Eight digits of the largest, so that equal steps on a grid tie in whatever pose."""
    largest = distance.max()
    return np.round(distance / largest, 8) if largest > 0 else distance
