"""Kernel ridge regression with targets left out, in closed form.

With the kernel matrix K (n, n) of the training rows, targets Y (n, q) and a penalty c,

    a = (K + c I)^-1 Y,        prediction of x: k(x) a.

Let G = (K + c I)^-1.  Without the rows F the coefficients are a - G_{.F} (G_FF)^-1 a_F, which are 0
on F, so the prediction of F itself is Y_F - (G_FF)^-1 a_F; of one row, Y_i - a_i / G_ii (Rasmussen
and Williams, Gaussian Processes for Machine Learning, 2006, eq. 5.10 to 5.12).

Beyond some thousands of rows the functions are those of m landmark rows only (subset of regressors;
op. cit., eq. 8.11 to 8.14): with K_mm = L L' and features Phi = K_nm L^-T of rank m,

    w = (Phi' Phi + c I)^-1 Phi' Y,        coefficients on the landmarks: L^-T w,

and, with S = Phi (Phi' Phi + c I)^-1 Phi', the prediction of F from the other rows is
Y_F - (I - S_FF)^-1 (Y - S Y)_F.  With all rows as landmarks both are the same function.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Array = NDArray[np.float64]

_JITTER = 1e-8  # of K_mm, whose diagonal is 1: two cells alike make it singular


class Ridge(Protocol):
    """What both forms offer; targets are (n, q) float64, rows index the training rows."""

    def coefficients(self, targets: Array) -> Array:
        """(m, q) on the landmarks, which are all rows in the exact form."""

    def predictions(self, targets: Array) -> Array:
        """(n, q) of the training rows, in sample."""

    def without(self, targets: Array, folds: Sequence[NDArray[np.intp]]) -> Iterator[Array]:
        """(m, q) coefficients of the regression that never saw the targets of a fold's rows, fold
        by fold."""

    def leave_one_out(self, targets: Array) -> Array:
        """(n, q) predictions of every row from all others."""


@dataclass(frozen=True, eq=False)
class ExactRidge:
    """Every row is a landmark.

    Attributes:
        inverse: (n, n) float64, G.
        penalty: c.
    """

    inverse: Array
    penalty: float

    @staticmethod
    def fit(kernel: Array, penalty: float) -> ExactRidge:
        """From K (n, n), positive semi-definite, and c > 0."""
        shifted = kernel + penalty * np.eye(len(kernel))
        factor = scipy.linalg.cho_factor(shifted, lower=True, overwrite_a=True)
        return ExactRidge(scipy.linalg.cho_solve(factor, np.eye(len(kernel))), penalty)

    def coefficients(self, targets: Array) -> Array:
        return self.inverse @ targets

    def predictions(self, targets: Array) -> Array:
        return targets - self.penalty * self.coefficients(targets)  # K G = I - c G

    def without(self, targets: Array, folds: Sequence[NDArray[np.intp]]) -> Iterator[Array]:
        full = self.coefficients(targets)
        for rows in folds:
            block = self.inverse[np.ix_(rows, rows)]
            found: Array = full - self.inverse[:, rows] @ _solve(block, full[rows])
            found[rows] = 0.0  # exactly
            yield found

    def leave_one_out(self, targets: Array) -> Array:
        return targets - self.coefficients(targets) / np.diag(self.inverse)[:, None]


@dataclass(frozen=True, eq=False)
class LandmarkRidge:
    """Functions of m landmarks, fitted to n rows.

    Attributes:
        features: (n, m) float64, Phi.
        lower: (m, m) float64, L.
        gram: (m, m) float64, Phi' Phi + c I.
        factor: its lower Cholesky factor.
    """

    features: Array
    lower: Array
    gram: Array
    factor: Array

    @staticmethod
    def fit(to_landmarks: Array, landmarks: Array, penalty: float) -> LandmarkRidge:
        """From K_nm (n, m), K_mm (m, m) and c > 0."""
        m = len(landmarks)
        lower = scipy.linalg.cholesky(landmarks + _JITTER * np.eye(m), lower=True)
        features = np.ascontiguousarray(
            scipy.linalg.solve_triangular(lower, to_landmarks.T, lower=True).T
        )
        gram = features.T @ features + penalty * np.eye(m)
        return LandmarkRidge(features, lower, gram, scipy.linalg.cholesky(gram, lower=True))

    def coefficients(self, targets: Array) -> Array:
        return self._on_landmarks(self._weights(targets))

    def predictions(self, targets: Array) -> Array:
        return self.features @ self._weights(targets)

    def without(self, targets: Array, folds: Sequence[NDArray[np.intp]]) -> Iterator[Array]:
        moment = self.features.T @ targets
        weights = self._over_gram(moment)
        for rows in folds:
            phi = self.features[rows]
            if len(rows) > len(self.lower):  # the smaller of two systems
                left = moment - phi.T @ targets[rows]
                yield self._on_landmarks(_solve(self.gram - phi.T @ phi, left))
                continue
            spread = self._over_gram(phi.T)  # (m, |F|)
            residual = targets[rows] - phi @ weights
            error = _solve(np.eye(len(rows)) - phi @ spread, residual)
            yield self._on_landmarks(weights - spread @ error)

    def leave_one_out(self, targets: Array) -> Array:
        half = scipy.linalg.solve_triangular(self.factor, self.features.T, lower=True)
        leverage = np.square(half).sum(axis=0)  # (n,) diagonal of S
        residual = targets - self.predictions(targets)
        return targets - residual / (1 - leverage)[:, None]

    def _weights(self, targets: Array) -> Array:
        return self._over_gram(self.features.T @ targets)

    def _over_gram(self, right: Array) -> Array:
        found: Array = scipy.linalg.cho_solve((self.factor, True), right)
        return found

    def _on_landmarks(self, weights: Array) -> Array:
        found: Array = scipy.linalg.solve_triangular(self.lower, weights, lower=True, trans="T")
        return found


def _solve(matrix: Array, right: Array) -> Array:
    """The solution for a positive definite matrix."""
    found: Array = scipy.linalg.solve(matrix, right, assume_a="pos")
    return found
