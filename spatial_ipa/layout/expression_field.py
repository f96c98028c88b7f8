"""Expression of a tissue as Gaussian fields over the plane: how well a slide fits where it lies.

Features f are the first principal components of the embeddings of all slides, each of mean 0 and
variance 1.  Within a slide each is a field with the covariance

    cov(f(x), f(x')) = a exp(-|x - x'|^2 / (2 l^2)) + (1 - a) [x = x'],

a of its own and l common to all, those of the highest marginal likelihood (Rasmussen and Williams,
Gaussian Processes for Machine Learning, 2006, eq. 2.30).  Given placed cells with values f the
prediction at x has mean m(x) and variance v(x) (eqs. 2.25, 2.26).  Slides differ in more than their
cells, so another slide is predicted with mean r m and variance 1 - r^2 (1 - v), r = 0.7.  The gain
of a cell with the value f at x is that over knowing nothing of its place,

    log N(f; r m, 1 - r^2 (1 - v)) - log N(f; 0, 1),

summed over features: 0 far from all placed cells, positive where expression goes on, negative where
it contradicts.  Which features agree between slides is not known beforehand; gains are those of the
first 3, 4, 6 and 8, and the highest counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

Array = NDArray[np.float64]

LENGTHS = (0.3, 0.45, 0.7)
"""Values of l that are compared, in RMS radii of a slide."""

SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97)
"""Values of a that are compared."""

COUNTS = (3, 4, 6, 8)
"""Numbers of leading features whose gains are compared."""

_BETWEEN = 0.7  # r
_FITTED = 512  # cells of a slide by which l and a are chosen


def leading_features(h: Sequence[np.ndarray]) -> list[Array]:
    """(n_s, up to 8) principal components of all slides' (n_s, d) together, at unit variance."""
    cells = np.concatenate(h).astype(np.float64)
    centre = cells.mean(axis=0)
    _, size, axes = np.linalg.svd(cells - centre, full_matrices=False)
    used = size > 1e-9 * size[0]
    axes = (axes[used].T / size[used])[:, : COUNTS[-1]] * np.sqrt(len(cells))
    return [(x - centre) @ axes for x in h]


@dataclass(frozen=True, eq=False)
class FieldSettings:
    """Attributes:

    length: l, in the unit of the positions.
    share: (m,) a of each feature.
    """

    length: float
    share: Array

    @staticmethod
    def fitted(features: Sequence[Array], xy: Sequence[Array]) -> FieldSettings:
        """Those of the highest likelihood, slides (n_s, m) at (n_s, 2) being independent."""
        best: tuple[float, FieldSettings] | None = None
        share = np.array(SHARES)
        for length in LENGTHS:
            found = np.zeros((len(share), features[0].shape[1]))
            for f, x in zip(features, xy, strict=True):
                value, vector = _spectrum(x[:_FITTED], length)
                power = (vector.T @ f[:_FITTED]) ** 2  # (n, m)
                spread = share[:, None] * value + 1 - share[:, None]  # (shares, n)
                found -= 0.5 * ((1 / spread) @ power + np.log(spread).sum(axis=1)[:, None])
            total = float(found.max(axis=0).sum())
            if best is None or total > best[0]:
                best = total, FieldSettings(length, share[found.argmax(axis=0)])
        assert best is not None, "there are lengths to compare"
        return best[1]


def _spectrum(x: Array, length: float) -> tuple[Array, Array]:
    """Eigenvalues (n,), none below 0, and vectors (n, n) of the kernel of points (n, 2)."""
    value, vector = np.linalg.eigh(_kernel(x, x, length))
    return np.maximum(value, 0.0), vector


def _kernel(x: Array, y: Array, length: float) -> Array:
    found: Array = np.exp(-cdist(x, y, "sqeuclidean") / (2 * length**2))
    return found


@dataclass(frozen=True, eq=False)
class ExpressionField:
    """Fields given placed cells.

    Attributes:
        xy: (n, 2) the cells.
        settings: l and a.
        vector: (n, n) eigenvectors of their kernel.
        shrink: (n, m) a / (a lambda + 1 - a).
        dual: (n, m) weights of kernels in the mean.
    """

    xy: Array
    settings: FieldSettings
    vector: Array
    shrink: Array
    dual: Array

    @staticmethod
    def given(features: Array, xy: Array, settings: FieldSettings) -> ExpressionField:
        """Fields given the features (n, m) of cells at (n, 2)."""
        value, vector = _spectrum(xy, settings.length)
        a = settings.share
        shrink = a / (a * value[:, None] + 1 - a)
        dual = vector @ (shrink * (vector.T @ features))
        return ExpressionField(xy, settings, vector, shrink, dual)

    def predicted(self, x: Array) -> tuple[Array, Array]:
        """Mean and variance (q, m) of another slide's features at (q, 2)."""
        kernel, a = _kernel(x, self.xy, self.settings.length), self.settings.share
        known = a * ((kernel @ self.vector) ** 2 @ self.shrink)  # 1 - v
        return _BETWEEN * kernel @ self.dual, 1 - _BETWEEN**2 * np.clip(known, 0.0, 1.0)

    def gains(self, features: Array, x: Array) -> Array:
        """(counts,) gains of cells (q, m) at (q, 2), by number of features."""
        mean, variance = self.predicted(x)
        return _by_count(_gain(features, mean, variance).sum(axis=0))

    def table(self, features: Array, x: Array) -> Array:
        """(counts, p, q) gains of each of q cells at each of p places (p, 2)."""
        mean, variance = self.predicted(x)
        each = [
            _gain(f[None, :], mean[:, [k]], variance[:, [k]])  # (p, q)
            for k, f in enumerate(features.T)
        ]
        return _by_count(np.stack(each))


def _gain(f: Array, mean: Array, variance: Array) -> Array:
    found: Array = -0.5 * ((f - mean) ** 2 / variance + np.log(variance) - f**2)
    return found


def _by_count(found: Array) -> Array:
    """(counts, ...) sums over the first features of gains (m, ...); of fewer than 3 over all."""
    ends = [min(count, len(found)) - 1 for count in COUNTS]
    total: Array = np.cumsum(found, axis=0)[ends]
    return total
