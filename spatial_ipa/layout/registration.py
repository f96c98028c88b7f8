"""Bring training slides of unknown pose into one frame by matching their expression.

Slide s is matched to every slide placed before it by mutual nearest neighbours in feature space
(Haghverdi et al., Nat. Biotechnol. 36:421, 2018): (i, j) is a match if j is among the k nearest of
i and i among the k nearest of j.  With x_i the gauge-fixed positions (mean 0, RMS radius 1) of
slide s and y_j those of the placed slides, the rotation or reflection R minimises

    sum over matches of w_ij |x_i R - y_j|^2,      w_ij = 1 / (1 + r_ij^2 / median r^2),

solved by SVD and reweighted with its own residuals r_ij (Cauchy weights), so that wrong matches
count little.  Scale and centre come from the gauge and not from the matches: these scatter, and a
fitted scale would shrink every slide towards the middle.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from common.errors import UserError
from spatial_ipa.geometry.gauge import gauge_fix_array

Array = NDArray[np.float64]


def mutual_nearest_neighbours(
    a: np.ndarray, b: np.ndarray, k: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs (i, j) where b_j is among the k nearest of a_i and a_i among the k nearest of b_j.

    Args:
        a: (n, d) features.
        b: (m, d) features.
        k: neighbours, at most min(n, m); Euclidean.

    Returns:
        Row indices into ``a`` and ``b``, equally long.  Never empty: the closest pair is mutual.

    Raises:
        ValueError: if k is out of range.
    """
    if not 1 <= k <= min(len(a), len(b)):
        raise UserError(f"k must lie in [1, {min(len(a), len(b))}], the smaller set; got {k}")
    to_b = NearestNeighbors(n_neighbors=k).fit(b).kneighbors_graph(a)
    to_a = NearestNeighbors(n_neighbors=k).fit(a).kneighbors_graph(b)
    mutual = to_b.multiply(to_a.T).tocsr()  # sparse: slides may have 10^5 cells
    mutual.sort_indices()
    i, j = mutual.nonzero()
    return i.astype(np.intp), j.astype(np.intp)


def slide_rotations(
    train_features: Sequence[np.ndarray],
    train_xy: Sequence[np.ndarray],
    *,
    k: int = 10,
    reweightings: int = 3,
) -> list[Array]:
    """Rotation or reflection R of every slide onto the ones before it; the first keeps its pose.

    Args:
        train_features: (n_s, d) per slide, comparable between slides.
        train_xy: (n_s, 2) per slide, any pose and unit.
        k: neighbours of the mutual matching.
        reweightings: rounds of Cauchy weights after the plain fit.

    Returns:
        (2, 2) orthogonal float64 per slide, for row vectors x R of the gauge-fixed coordinates.

    Raises:
        ValueError: if there is no slide, or features and coordinates do not fit together.
    """
    if not train_xy or len(train_features) != len(train_xy):
        raise UserError(
            "train_features and train_xy must hold one array per slide, got "
            f"{len(train_features)} and {len(train_xy)}"
        )
    for s, (features, xy) in enumerate(zip(train_features, train_xy, strict=True)):
        if len(features) != len(xy):
            raise UserError(
                f"slide {s}: train_features has {len(features)} rows, train_xy {len(xy)}"
            )
    rotations = [np.eye(2)]
    placed = [gauge_fix_array(train_xy[0])]
    for s in range(1, len(train_xy)):
        own = gauge_fix_array(train_xy[s])
        source, goal = [], []
        for r, positions in enumerate(placed):
            i, j = mutual_nearest_neighbours(train_features[s], train_features[r], k)
            source.append(own[i])
            goal.append(positions[j])
        rotations.append(_rotation(np.concatenate(source), np.concatenate(goal), reweightings))
        placed.append(own @ rotations[-1])
    return rotations


def register_slides(
    train_features: Sequence[np.ndarray],
    train_xy: Sequence[np.ndarray],
    *,
    k: int = 10,
    reweightings: int = 3,
) -> list[Array]:
    """Coordinates of all slides in the frame of the first, by :func:`slide_rotations`.

    Returns:
        (n_s, 2) float64 per slide, gauge-fixed.

    Raises:
        ValueError: as :func:`slide_rotations`.
    """
    rotations = slide_rotations(train_features, train_xy, k=k, reweightings=reweightings)
    return [gauge_fix_array(xy) @ r for xy, r in zip(train_xy, rotations, strict=True)]


def _rotation(x: Array, y: Array, reweightings: int) -> Array:
    """(2, 2) orthogonal R of the module's equation, for row vectors x R."""
    weight = np.ones(len(x))
    for _ in range(reweightings + 1):
        u, _, vt = np.linalg.svd((x * weight[:, None]).T @ y)
        rotation: Array = u @ vt
        square = ((x @ rotation - y) ** 2).sum(axis=1)
        typical = np.median(square)
        if typical <= 1e-20:  # an exact fit of at least half the matches: nothing to improve
            break
        weight = 1.0 / (1.0 + square / typical)
    return rotation
