"""Positions of new cells in the common frame of the training slides, by kernel ridge regression.

The model places cells by relations between them, and a layout that is right almost everywhere may
still be folded or bent as a whole: no local loss sees it.  Regression of coordinates on embeddings
errs otherwise: each cell by itself, blurred and shrunk towards the middle where expression says
little, but with nothing to fold.

With y the gauge-fixed coordinates of training cells in one frame and h their embeddings, positions
are ridge regressions of y on the features of a Gaussian kernel,

    k(h, c) = exp(-f |h - c|^2 / (2 s^2)),    s^2 = mean |h_i - h_j|^2 over training cells,

with a penalty, in the Nystroem approximation on up to 1024 of the cells c (Williams and Seeger,
NIPS 2000).  Kernel ridge is linear in y: turning all slides turns the result.

New cells that are alike lie near each other, which a regression of single cells cannot know.  The
prediction z_i is therefore the mean over the new cells j, weighted by the cosine of embeddings,

    w_ij = exp(b (cos(h_i, h_j) - 1)),

a kernel smoother (Nadaraya, Theory Probab. Appl. 9:141, 1964; Watson, Sankhya A 26:359, 1964), or
attention with one head over all cells.  Of more than 2048 new cells j are a sample of that many and
the cell itself, so that the work grows linearly.  f, the penalty and b come from the training
slides (:mod:`spatial_ipa.layout.frame_fit`).

Where expression occurs at several places, the frame also holds the regressions of
:mod:`spatial_ipa.layout.charts`.  With f_m their positions of a cell and p_m their masses, averaged
over alike cells as z is, places that are one are merged, and hypothesis m of a cell is

    x + c (f_m - z) R,

x the layout, R turning z onto x and c the scale at which z fits x best: the place that the mean is
exchanged for, and what the layout has beyond the regression.  A cell with a single place stays at
x.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.preprocessing import normalize

from common.align import align
from common.errors import UserError
from common.files.identity import check_version
from common.rng import numpy_generator_for
from spatial_ipa.layout.charts import Charts, merged
from spatial_ipa.layout.placement import Placement

Array = NDArray[np.float64]

FRAME_VERSION = 2
"""Of the computation; checkpoints of another one are refused: their error radii belong to it."""

_SAMPLE = 2048  # cells averaged over
_BLOCK = 8192  # new cells at once


@dataclass(frozen=True, eq=False)
class FrameRegression:
    """Attributes:

    centres: (m, d) float32 embeddings c.
    weights: (m, 2) float64, of their kernels.
    offset: (2,) float64.
    gamma: f / (2 s^2).
    penalty: of the ridge.
    sharpness: b, of the mean over alike cells.
    charts: for 2 and more hypotheses, in order; empty where none were fitted.
    """

    centres: np.ndarray
    weights: Array
    offset: Array
    gamma: float
    penalty: float
    sharpness: float
    charts: tuple[Charts, ...] = ()

    def predict(self, h: np.ndarray) -> Array:
        """(n, 2) positions in the common frame of cells with embeddings (n, d), each by itself.

        Raises:
            ValueError: if the width differs from that of the training cells.
        """
        found = np.empty((len(h), 2))
        for rows, values in self._kernels(h):
            found[rows] = values @ self.weights + self.offset
        return found

    def _kernels(self, h: np.ndarray) -> Iterator[tuple[slice, Array]]:
        """Blocks of rows of h (n, d) and their (rows, m) kernel values."""
        if h.ndim != 2 or h.shape[1] != self.centres.shape[1]:
            raise UserError(f"h must have shape (n, {self.centres.shape[1]}), got {h.shape}")
        centres = self.centres.astype(np.float64)
        for start in range(0, len(h), _BLOCK):
            rows = slice(start, start + _BLOCK)
            yield rows, rbf_kernel(h[rows].astype(np.float64), centres, gamma=self.gamma)

    def averaged(self, h: np.ndarray, seed: int = 0) -> Array:
        """(n, 2) predictions of new cells with embeddings (n, d), each the mean over alike ones.

        See :func:`mean_of_alike`, which has the ``seed``.
        """
        return mean_of_alike(self.predict(h), h, self.sharpness, seed)

    def hypotheses(
        self, placement: Placement, h: np.ndarray, count: int, seed: int = 0
    ) -> tuple[Array, Array]:
        """Several positions of each cell, in the pose and unit of a layout.

        Args:
            placement: n cells, gauge-fixed, as :func:`refined` leaves them.
            h: (n, d) their embeddings.
            count: M, hypotheses per cell.
            seed: as :meth:`averaged`.

        Returns:
            (n, M, 2) by falling weight and (n, M) weights, which sum to 1.  A weight of 0 says that
            there is no such place; its position is that of the first.

        Raises:
            ValueError: as :meth:`charts_for`.
        """
        charts, x = self.charts_for(count), placement.xy.double().cpu()
        several, weight = np.repeat(x.numpy()[:, None], count, axis=1), np.zeros((len(h), count))
        if charts is None:
            weight[:, 0] = 1.0
            return several, weight
        m = len(charts)
        found = np.empty((len(h), 2 + 3 * m))
        for rows, values in self._kernels(h):
            position, mass = charts.of_kernels(values)
            mean = values @ self.weights + self.offset
            found[rows] = np.hstack([mean, position.reshape(len(mean), -1), mass])
        found = mean_of_alike(found, h, self.sharpness, seed)
        position, mass = merged(found[:, 2:-m].reshape(-1, m, 2), found[:, -m:], charts.spread)
        onto = align(torch.from_numpy(found[:, :2]), x, scale=True, reflection=True)
        shift = np.where(mass[:, 1:2, None] > 0, position - found[:, None, :2], 0.0)
        shift = (onto.scale * torch.from_numpy(shift) @ onto.rotation.mT).numpy()
        # Places that are not there lie where the first does.
        several += np.concatenate([shift, np.repeat(shift[:, :1], count - m, axis=1)], axis=1)
        weight[:, :m] = mass
        return several, weight

    def charts_for(self, count: int) -> Charts | None:
        """The likeliest charts for at most so many hypotheses; None where one place is likelier.

        Raises:
            ValueError: if there are none for so many.
        """
        if count in map(len, self.charts):
            best = max((c for c in self.charts if len(c) <= count), key=lambda c: c.gain)
            return best if best.gain > 0 else None
        raise UserError(
            f"num_hypotheses={count}, but the checkpoint holds no charts for it: its training "
            "cells were too few; set num_hypotheses to 1"
        )

    def state(self) -> dict[str, Any]:
        """Tensors and plain types only, for ``torch.load(weights_only=True)``."""
        return {
            "version": FRAME_VERSION,
            "centres": torch.from_numpy(self.centres),
            "weights": torch.from_numpy(self.weights),
            "offset": torch.from_numpy(self.offset),
            "gamma": self.gamma,
            "penalty": self.penalty,
            "sharpness": self.sharpness,
            "charts": [charts.state() for charts in self.charts],
        }

    @staticmethod
    def from_state(state: dict[str, Any]) -> FrameRegression:
        """Rebuild what :meth:`state` gave.

        Raises:
            ValueError: if the state is of another version.
        """
        check_version(state, "common frame", FRAME_VERSION)
        return FrameRegression(
            state["centres"].cpu().numpy(),
            state["weights"].cpu().numpy(),
            state["offset"].cpu().numpy(),
            float(state["gamma"]),
            float(state["penalty"]),
            float(state["sharpness"]),
            tuple(Charts.from_state(charts) for charts in state["charts"]),
        )


def refined(placement: Placement, z: Array, weight: float = 1.0) -> Placement:
    """Add the averaged regression to a layout; the draws move with their mean.

    All draws are moved alike and then brought to the scale of the sum, so their spread shrinks with
    the share of the regression, which has no draws.  z keeps its own scale: a regression that
    explains little is short and counts for little.

    Args:
        placement: n cells, gauge-fixed.
        z: (n, 2) their positions by :meth:`FrameRegression.averaged`.
        weight: of the regression beside the layout.
    """
    x = placement.xy.double()
    y = torch.from_numpy(z - z.mean(axis=0)).to(x.device)
    total = x + weight * align(y, x, reflection=True).apply(y)
    scale = total.square().sum(1).mean().sqrt()
    draws = (placement.draws.double() + (total - x)) / scale
    return Placement((total / scale).to(placement.xy), draws.to(placement.draws))


def mean_of_alike(z: Array, h: np.ndarray, sharpness: float, seed: int = 0) -> Array:
    """Means of values over alike cells, with the weights of the module docstring.

    Args:
        z: (n, m) values of cells.
        h: (n, d) their embeddings.
        sharpness: b; large for the cell alone, 0 for the mean over all.
        seed: of the sample of more than 2048 cells.

    Returns:
        (n, m).
    """
    n = len(h)
    rows = np.arange(n)
    if n > _SAMPLE:
        rows = np.sort(numpy_generator_for(seed, 79).permutation(n)[:_SAMPLE])
    sample, known = normalize(h[rows].astype(np.float64)), z[rows]  # rows of zeros stay
    found = np.empty(z.shape)
    for start in range(0, n, _BLOCK):
        block = slice(start, start + _BLOCK)
        weight = normalize(h[block].astype(np.float64)) @ sample.T
        weight = np.exp(sharpness * (weight - 1), out=weight)
        own = np.arange(n)[block]
        at = np.searchsorted(rows, own).clip(max=len(rows) - 1)
        inside = np.flatnonzero(rows[at] == own)
        weight[inside, at[inside]] = 0.0  # a cell counts itself once, in the sample or not
        total = weight @ known + z[block]
        found[block] = total / (1 + weight.sum(axis=1, keepdims=True))
    return found
