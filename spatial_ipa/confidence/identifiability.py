"""How far expression fixes position on a slide whose coordinates are known.

With embeddings h, positions x of mean 0 and RMS radius 1, and N(i) the k = 20 nearest spots of i in
H (itself left out):

* ambiguity of a spot, a_i = RMS_{j in N(i)} |x_i - x_j| / RMS_{random pairs} |x_i - x_j|: how far
  apart two spots of this expression lie, over two spots of any.  1 says that expression tells
  nothing; the least possible, with the k nearest in space as N(i), is the ``floor``.
* a spot is multimodal if N(i) falls into two groups far apart (repeated units, mirror images).  On
  the principal axis of their positions the neighbours are cut where the within-group sum of squares
  is least, each group having at least a quarter of them; with means m1, m2 and pooled standard
  deviation s the cut counts if |m1 - m2| >= 5 s and >= 0.5.  Of 20 points uniform in a disc or on a
  band 3 % pass, of two Gaussian groups with means 7 standard deviations apart 97 %; points on a
  ring pass in half of all cases.
* symmetry index of a map R (mirroring about an axis, or the half-turn about the centroid): with
  pi(i) the spot nearest to R x_i,

      S(R) = (g - c) / (g - c0),   c  = mean_i |h_i - h_pi(i)|²,
                                   c0 = mean_i |h_i - h_nearest in space(i)|²,
                                   g  = mean_i gamma(|x_i - R x_i|),

  gamma(d) being the mean of |h_i - h_j|² over all pairs at distance d (twice the variogram of
  geostatistics, Matheron 1963).  S = 1: mirrored places are as alike as adjacent ones, and no
  method can tell them apart.  S = 0: no more alike than any places that far apart.  The mean is
  over spots that R moves by at least 0.5 and whose image lies on the tissue; where g - c0 is below
  a tenth of the mean over all pairs there is nothing to repeat, and S is 0.  A tissue that does not
  change along a direction is also symmetric in this sense.  Axes are tried in 18 directions,
  those of the slide's principal axes among them, at distances -0.3, -0.15, 0, 0.15 and 0.3 from the
  centroid (tissue is not cut symmetrically), so the largest S of any slide lies above 0:
  up to 0.6 on simulated tissue without symmetry, from 0.89 on mirror-symmetric one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from common.errors import UserError
from common.rng import numpy_generator_for
from spatial_ipa.geometry.gauge import gauge_fix_array
from spatial_ipa.geometry.neighbours import nearest

Array = NDArray[np.float64]

NEIGHBOURS = 20
SYMMETRIC = 0.75
"""Symmetry index from which a slide is called symmetric."""
MULTIMODAL = 0.3
"""Share of multimodal spots from which a slide is said to have repeated units."""
AMBIGUOUS = 0.8
"""Ambiguity of the whole slide from which position is called undetermined."""

_SEPARATION = 5.0
_DISTANT = 0.5
_AXES = 18
_OFFSETS = (-0.3, -0.15, 0.0, 0.15, 0.3)
_MOVED = 0.5
_LEAST_STRUCTURE = 0.1  # below it S would be a ratio of noise
_LEAST_SHARE = 0.25  # of the spots, for a map to be judged
_SYMMETRY_SPOTS = 1500  # all pairs of these are held at once


@dataclass(frozen=True, eq=False)
class Identifiability:
    """What :func:`slide_identifiability` found; see the module for definitions.

    Attributes:
        ambiguity: (n,) of each spot.
        multimodal: (n,) bool.
        overall: RMS of the ambiguity over spots.
        floor: what the spatial neighbours themselves would give for ``overall``.
        structure: 1 - c0 / (mean of |h_i - h_j|² over all pairs), the share of the variance of H
            that adjacent spots have in common.
        mirror: (18,) symmetry indices, each the largest over the distances from the centroid, NaN
            where too few spots have an image; the axes lie at 0, 10, ..., 170 degrees from the
            slide's longest principal axis.
        half_turn: symmetry index of the rotation by 180 degrees.
    """

    ambiguity: Array
    multimodal: NDArray[np.bool_]
    overall: float
    floor: float
    structure: float
    mirror: Array
    half_turn: float

    @property
    def verdict(self) -> str:
        """All that apply of ``undetermined``, ``mirror-symmetric``, ``half-turn symmetric`` and
        ``repeated units``, joined by commas; else ``identifiable``."""
        found = {
            "undetermined": self.overall >= AMBIGUOUS,
            "mirror-symmetric": _largest(self.mirror) >= SYMMETRIC,
            "half-turn symmetric": self.half_turn >= SYMMETRIC,
            "repeated units": self.multimodal.mean() >= MULTIMODAL,
        }
        return ", ".join(name for name, applies in found.items() if applies) or "identifiable"

    def summary(self) -> dict[str, float | str]:
        """Numbers of the whole slide, and the verdict."""
        best = int(np.argmax(np.nan_to_num(self.mirror, nan=-np.inf)))
        return {
            "verdict": self.verdict,
            "spots": float(len(self.ambiguity)),
            "ambiguity": self.overall,
            "ambiguity_floor": self.floor,
            "multimodal": float(self.multimodal.mean()),
            "structure": self.structure,
            "mirror_index": _largest(self.mirror),
            "mirror_axis_degrees": 180.0 * best / _AXES,
            "half_turn_index": self.half_turn,
        }


def slide_identifiability(
    embedding: ArrayLike, xy: ArrayLike, *, k: int = NEIGHBOURS, seed: int = 0
) -> Identifiability:
    """Judge one slide from its embeddings and true coordinates.

    Args:
        embedding: (n, d).
        xy: (n, 2) true coordinates in any unit and pose.
        k: neighbours of a spot, 4 <= k < n.
        seed: of the 1,500 spots from which the symmetry indices are taken above that size.

    Raises:
        ValueError: for wrong shapes, values that are not finite, k out of range, or coordinates
            that all coincide.
    """
    h, x = np.asarray(embedding, dtype=np.float64), gauge_fix_array(xy)
    n = len(x)
    if h.ndim != 2 or len(h) != n or not np.isfinite(h).all():
        raise UserError(f"embedding must be finite and ({n}, d) like xy, got shape {h.shape}")
    if not 4 <= k < n:
        raise UserError(f"k must lie in [4, n - 1] = [4, {n - 1}], got {k}")
    if not x.any():
        raise UserError("all coordinates of xy coincide")
    # RMS distance of two different spots: sqrt(2 n / (n - 1)) at RMS radius 1.
    random_pair = np.sqrt(2 * n / (n - 1))
    near = nearest(h, h, k, same=True)[1]
    ambiguity, floor = (
        np.sqrt(((x[:, None] - x[index]) ** 2).sum(2).mean(1)) / random_pair
        for index in (near, cKDTree(x).query(x, k + 1)[1][:, 1:])
    )
    rng = numpy_generator_for(seed)
    some = rng.choice(n, min(n, _SYMMETRY_SPOTS), replace=False)
    structure, mirror, half_turn = _symmetry(h[some], x[some])
    return Identifiability(
        ambiguity,
        is_split(x[near]),
        float(np.sqrt((ambiguity**2).mean())),
        float(np.sqrt((floor**2).mean())),
        structure,
        mirror,
        half_turn,
    )


def is_split(positions: np.ndarray) -> NDArray[np.bool_]:
    """Whether each set of k positions (n, k, 2), in RMS radii, falls into two groups far apart."""
    centred = positions - positions.mean(axis=1, keepdims=True)
    _, axes = np.linalg.eigh(np.einsum("nki,nkj->nij", centred, centred))
    t = np.sort(np.einsum("nki,ni->nk", centred, axes[:, :, 1]), axis=1)  # (n, k), mean 0
    k = t.shape[1]
    low = np.arange(-(-k // 4), k - -(-k // 4) + 1)  # points below the cut
    below = t.cumsum(axis=1)[:, low - 1]
    gap = -below / (k - low) - below / low  # both groups sum to 0
    within = (t**2).sum(axis=1)[:, None] - gap**2 * low * (k - low) / k
    best = within.argmin(axis=1)[:, None]
    gap = np.take_along_axis(gap, best, axis=1)[:, 0]
    spread = np.sqrt(np.maximum(np.take_along_axis(within, best, axis=1)[:, 0], 0) / (k - 2))
    split: NDArray[np.bool_] = (gap >= _SEPARATION * spread) & (gap >= _DISTANT)
    return split


def _symmetry(h: Array, x: Array) -> tuple[float, Array, float]:
    """Structure, indices of the mirror axes, index of the half-turn; see the module."""
    n = len(x)
    tree = cKDTree(x)
    step, adjacent = (column[:, 1] for column in tree.query(x, 2))
    c0 = ((h - h[adjacent]) ** 2).sum(1).mean()
    total = 2 * n / (n - 1) * h.var(axis=0).sum()
    if total <= 0:
        return 0.0, np.zeros(_AXES), 0.0
    # Pairs in bins of equal width, about a spot distance or, on small slides, wider.
    apart, unlike = cdist(x, x), cdist(h, h, "sqeuclidean")
    count = max(4, min(30, int(np.sqrt(n) / 1.5)))
    edges = np.linspace(0, apart.max() * (1 + 1e-9), count + 1)
    pair = np.triu_indices(n, 1)
    place = np.digitize(apart[pair], edges) - 1
    pairs = np.bincount(place, minlength=count)
    mean = np.bincount(place, unlike[pair], count) / np.maximum(pairs, 1)
    distance = np.bincount(place, apart[pair], count) / np.maximum(pairs, 1)
    seen = pairs > 0

    def index(image: Array) -> float:
        off, match = tree.query(image)
        moved = np.linalg.norm(x - image, axis=1)
        used = (moved >= _MOVED) & (off <= np.median(step))
        if used.mean() < _LEAST_SHARE:
            return float("nan")
        c = unlike[np.flatnonzero(used), match[used]].mean()
        g = np.interp(moved[used], distance[seen], mean[seen]).mean()
        # Without spatial structure there is nothing that a mirror could repeat.
        return float((g - c) / (g - c0)) if g - c0 > _LEAST_STRUCTURE * total else 0.0

    _, axes = np.linalg.eigh(x.T @ x)
    start = np.arctan2(axes[1, 1], axes[0, 1])
    mirror = np.full(_AXES, np.nan)
    for axis, angle in enumerate(start + np.pi * np.arange(_AXES) / _AXES):
        normal = np.array([-np.sin(angle), np.cos(angle)])
        height = x @ normal
        images = (x - 2 * np.outer(height - offset, normal) for offset in _OFFSETS)
        mirror[axis] = np.fmax.reduce([index(image) for image in images])
    half_turn = index(-x)
    return float(1 - c0 / total), mirror, 0.0 if np.isnan(half_turn) else half_turn


def _largest(values: Array) -> float:
    return float(np.nanmax(values)) if np.isfinite(values).any() else 0.0
