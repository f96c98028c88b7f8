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
* ``edge_auc``, ``balanced_precision``, ``shell_f1``, ``stress_1`` are those of GEARS, and
  ``nearest_...`` the spacing of the layout and, with ``_true``, of the target:
  :mod:`spatial_ipa.geometry.distance_metrics`.

Ties are shared as :mod:`spatial_ipa.geometry.neighbours` says; the chance level is the mean number
of true neighbours over n - 1.  Hence a perfect layout has recall 1, a layout collapsed to a point
has exactly the chance level, and the order of the rows never matters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata
from sklearn.manifold import trustworthiness

from common.errors import UserError
from spatial_ipa.geometry.distance_metrics import (
    balanced_precision,
    edge_auc,
    near_radius,
    nearest_quantile,
    nearest_variation,
    pair_distances,
    shell_f1,
    stress_1,
)
from spatial_ipa.geometry.gauge import Array, checked_pair, gauge_fix_array, procrustes_rotation
from spatial_ipa.geometry.graphs import adaptive_k
from spatial_ipa.geometry.neighbours import CHUNK, nearest_weight, some_points

MIN_POINTS = 41
"""Trustworthiness at 20 neighbours is defined for more than twice as many points."""


def procrustes_rmse(pred: ArrayLike, target: ArrayLike) -> float:
    """RMS error after the best similarity (reflection allowed), over the target's RMS radius."""
    p, t = (gauge_fix_array(x) for x in checked_pair(pred, target))
    rotation, scale = procrustes_rotation(p, t)
    # Summed rather than sqrt(1 - c^2), which loses half the digits when the fit is good.
    return float(np.sqrt(((scale * p @ rotation - t) ** 2).sum(axis=1).mean()))


def sliced_wasserstein(pred: ArrayLike, target: ArrayLike, num_projections: int = 64) -> float:
    """W2 of the gauge-fixed clouds over fixed directions, ``pred`` turned but not shrunk."""
    p, t = (gauge_fix_array(x) for x in checked_pair(pred, target))
    rotation, _ = procrustes_rotation(p, t)
    angle = np.pi * np.arange(num_projections) / num_projections
    directions = np.stack([np.cos(angle), np.sin(angle)])  # (2, projections)
    gap = np.sort(p @ rotation @ directions, axis=0) - np.sort(t @ directions, axis=0)
    return float(np.sqrt((gap**2).mean()))


def distance_spearman(pred: ArrayLike, target: ArrayLike, *, seed: int = 0) -> float:
    """Spearman correlation of pairwise distances, ties given their mean rank.

    All pairs up to n = 6,000; above it 2,000,000 pairs drawn with ``seed``, whose own sampling
    error is below 0.001.  NaN if all distances of a layout are equal (it collapsed to a point).
    """
    p, t = checked_pair(pred, target)
    ranks = []
    for x, d in zip((p, t), pair_distances(p, t, seed), strict=True):
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
    p, t = checked_pair(pred, target)
    n = len(p)
    if not 1 <= k < n:
        raise UserError(f"k must lie in [1, n - 1] = [1, {n - 1}], got {k}")
    rows = some_points(n, seed)
    hits = true_count = 0.0
    for block in np.array_split(rows, -(-len(rows) * n // CHUNK)):
        true = nearest_weight(t, block, k) > 0
        hits += float(nearest_weight(p, block, k)[true].sum())
        true_count += float(true.sum())
    return hits / (len(rows) * k), true_count / (len(rows) * (n - 1))


class LayoutPair:
    """A predicted and a true layout, checked, as every metric sees them.

    Args:
        pred: (n, 2) predicted coordinates, any pose and scale.
        target: (n, 2) true coordinates of the same points in the same order, any unit.
        seed: of the samples taken for n > 6,000; unused below.

    Raises:
        ValueError: for a wrong shape, coordinates that are not finite, or n < 41.
    """

    def __init__(self, pred: ArrayLike, target: ArrayLike, seed: int) -> None:
        self.pred, self.target = checked_pair(pred, target)
        self.seed, n = seed, len(self.pred)
        if n < MIN_POINTS:
            raise UserError(f"layout_metrics needs at least {MIN_POINTS} points, got {n}")
        self.some = some_points(n, seed)  # trustworthiness ranks all pairs of points: n^2 memory
        self._recall: dict[int, tuple[float, float]] = {}

    def recall(self, k: int) -> tuple[float, float]:
        """:func:`layout_recall`, computed once per k."""
        if k not in self._recall:
            self._recall[k] = layout_recall(self.pred, self.target, k, seed=self.seed)
        return self._recall[k]

    @cached_property
    def distances(self) -> tuple[Array, Array]:
        """(P,) predicted and true distances, :func:`pair_distances`."""
        return pair_distances(self.pred, self.target, self.seed)

    @cached_property
    def radius(self) -> float:
        """:func:`near_radius` of the target."""
        return near_radius(self.target)

    def trust(self, true: Array, other: Array) -> float:
        """Trustworthiness of ``other`` at 20 neighbours, on a sample where points are many."""
        return float(trustworthiness(true[self.some], other[self.some], n_neighbors=20))


@dataclass(frozen=True)
class Metric:
    """One figure of a layout.

    Attributes:
        function: of the two layouts; None where it is no function of coordinates alone
            (:mod:`spatial_ipa.evaluation.scorer`).
        title: head of its column.
        better: ``high`` or ``low``; None for a level to compare with, which has no column.
    """

    function: Callable[[LayoutPair], float] | None
    title: str
    better: Literal["high", "low"] | None


METRICS: dict[str, Metric] = {
    "spearman": Metric(
        lambda x: distance_spearman(x.pred, x.target, seed=x.seed), "Spearman", "high"
    ),
    "recall_k": Metric(lambda x: x.recall(adaptive_k(len(x.pred)))[0], "recall@k", "high"),
    "recall_10": Metric(lambda x: x.recall(10)[0], "recall@10", "high"),
    "chance_k": Metric(lambda x: x.recall(adaptive_k(len(x.pred)))[1], "chance@k", None),
    "chance_10": Metric(lambda x: x.recall(10)[1], "chance@10", None),
    "procrustes_rmse": Metric(lambda x: procrustes_rmse(x.pred, x.target), "RMSE", "low"),
    "trustworthiness": Metric(lambda x: x.trust(x.target, x.pred), "trust.", "high"),
    "continuity": Metric(lambda x: x.trust(x.pred, x.target), "cont.", "high"),
    "sliced_wasserstein": Metric(lambda x: sliced_wasserstein(x.pred, x.target), "SW", "low"),
    "edge_auc": Metric(lambda x: edge_auc(x.distances, x.radius), "edge AUC", "high"),
    "balanced_precision": Metric(
        lambda x: balanced_precision(x.pred, x.target, x.radius, x.seed), "bal. AP", "high"
    ),
    "shell_f1": Metric(lambda x: shell_f1(x.distances), "shell F1", "high"),
    "stress_1": Metric(lambda x: stress_1(x.distances), "Stress-1", "low"),
    "nearest_cv": Metric(lambda x: nearest_variation(x.pred), "nearest CV", None),
    "nearest_q05": Metric(lambda x: nearest_quantile(x.pred), "nearest 5 %", None),
    "nearest_cv_true": Metric(lambda x: nearest_variation(x.target), "true nearest CV", None),
    "nearest_q05_true": Metric(lambda x: nearest_quantile(x.target), "true nearest 5 %", None),
}
"""By name.  A further metric is a function with its row here, and a test."""


def layout_metrics(pred: ArrayLike, target: ArrayLike, *, seed: int = 0) -> dict[str, float]:
    """Every figure of :data:`METRICS` for one slide; arguments as :class:`LayoutPair`."""
    pair = LayoutPair(pred, target, seed)
    return {name: m.function(pair) for name, m in METRICS.items() if m.function is not None}
