"""How well several positions per point match the true one: the better of them.

With x_im the M hypotheses of point i and t_i its true position,

    E = min over similarities S of  sqrt(mean_i min_m |S(x_im) - t_i|^2) / RMS radius of t,

one S, reflections allowed, for all points and hypotheses.  M = 1 is ``procrustes_rmse`` of
:mod:`spatial_ipa.geometry.metrics`.  More hypotheses never make E larger, whatever they say: it has
to be compared with what as many trivial ones reach.  The best of M whole layouts is another
question, ``best_layout_rmse``: it asks that one m is right for all points.

S is found by turns: each point takes its nearest hypothesis, S is fitted to these, until nothing
changes (as iterative closest point does, Besl and McKay, IEEE PAMI 14:239, 1992), from 12
directions with and without mirroring, from each layout by itself and from their mean.  That is an
upper bound of the minimum.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from common.errors import UserError
from spatial_ipa.geometry.gauge import Array, checked_layout, gauge_fix_array
from spatial_ipa.geometry.metrics import procrustes_rmse

_DIRECTIONS, _ROUNDS = 12, 100


def nearest_hypothesis(hypotheses: ArrayLike, target: ArrayLike) -> tuple[Array, float]:
    """Distances under the best S found, and E.

    Args:
        hypotheses: (n, M, 2) in any pose and scale.
        target: (n, 2) true positions.

    Returns:
        (n, M) float64 distances to the true position in RMS radii, and E.

    Raises:
        ValueError: for other shapes, or values that are not finite.
    """
    x, t = _checked(hypotheses, target)
    t = gauge_fix_array(t)
    every = x.reshape(-1, 2)
    middle = every.mean(axis=0)
    radius = np.sqrt(((every - middle) ** 2).sum(axis=1).mean())
    if radius == 0:
        return np.tile(np.linalg.norm(t, axis=1)[:, None], x.shape[1]), 1.0
    x = (x - middle) / radius
    moved = [_fitted(x, chosen, t) for chosen in (x.mean(axis=1), *x.swapaxes(0, 1))]
    for angle in 2 * np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS:
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        moved += [x @ turn, x @ turn @ np.diag([1.0, -1.0])]
    found = [_settled(x, start, t) for start in moved]
    apart, error = min(found, key=lambda pair: pair[1])
    return apart, error


def best_layout_rmse(hypotheses: ArrayLike, target: ArrayLike) -> float:
    """Smallest ``procrustes_rmse`` of the M layouts; arguments as above."""
    x, t = _checked(hypotheses, target)
    return min(procrustes_rmse(layout, t) for layout in x.swapaxes(0, 1))


def _checked(hypotheses: ArrayLike, target: ArrayLike) -> tuple[Array, Array]:
    x, t = np.asarray(hypotheses, dtype=np.float64), checked_layout("target", target)
    if x.ndim != 3 or x.shape[0] != len(t) or x.shape[2] != 2 or x.shape[1] < 1:
        raise UserError(f"hypotheses must have shape ({len(t)}, M, 2) like target, got {x.shape}")
    checked_layout("hypotheses", x.reshape(-1, 2))
    return x, t


def _settled(x: Array, moved: Array, t: Array) -> tuple[Array, float]:
    """Alternate from moved hypotheses (n, M, 2); distances (n, M) and E."""
    rows, before = np.arange(len(x)), None
    for _ in range(_ROUNDS):
        nearest = ((moved - t[:, None]) ** 2).sum(axis=2).argmin(axis=1)
        if before is not None and np.array_equal(nearest, before):
            break
        moved, before = _fitted(x, x[rows, nearest], t), nearest
    apart = np.linalg.norm(moved - t[:, None], axis=2)
    return apart, float(np.sqrt((apart.min(axis=1) ** 2).mean()))


def _fitted(x: Array, chosen: Array, t: Array) -> Array:
    """x (n, M, 2) under the similarity that fits ``chosen`` (n, 2) to t (n, 2) best."""
    mean = chosen.mean(axis=0)
    centred = chosen - mean
    size = (centred**2).sum()
    if size == 0:
        return np.zeros_like(x)
    u, singular, vt = np.linalg.svd(centred.T @ t)
    moved: Array = (singular.sum() / size) * (x - mean) @ (u @ vt)
    return moved
