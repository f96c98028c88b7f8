r"""Several positions for cells whose expression occurs at several places: mirror images, repeats.

Regression gives the mean of all places where expression h is found: on mirror-symmetric tissue a
point of the axis, where such a cell may never lie.  Training tissue is therefore cut into M regions
("charts") by straight lines, each region is regressed on by itself, and h has a position f_m(h) and
a mass p_m(h) in each:

    f_m   kernel ridge regression of position on the cells of region m alone,
    p_m   pi_m + t (q_m(h) - pi_m),  q_m the same regression of the indicator of region m on all
          cells, cut off at 0 and scaled to sum 1 over m, and pi_m the share of cells in it,

with the kernel, the centres and the penalty of :mod:`spatial_ipa.layout.frame_regression`, so a
chart costs two more columns of weights.  Where the lines run decides whether f_m is single-valued:
a mirror image needs the mirror's axis, a half-turn any line through the centre, repeated units one
between them.  Lines in 12 directions at 9 distances from the mean of the region they divide are
compared by the log-likelihood of training cells under

    sum_m p_m(h) N(y; f_m(h), C_m),        C_m the covariance of y - f_m(h) over region m,

p_m and f_m here being shares and means among the 20 cells nearest in H of other folds, so that no
cell explains itself; one cell at the middle of each region, as far from f_m as its cells are from
the middle, is added everywhere, for there may be no others.  The best line is taken, and looked for
twice more around it in steps of half the size.  A third region comes from the best line through
either of the two.  What the likelihood gains over one region says whether there is an ambiguity at
all; of the numbers of regions that may be used, 1 among them, the likeliest is.

On a new slide H tells mirror images apart less well than on those of training, whose accidents it
knows.  How far it can be trusted, t in [0, 1], is the least-squares slope of the indicators on q
with the cell's slide left out, for H that leaves out the cell's fold; of a single slide, fifths of
the folds are left out.

A mixture of two normal distributions has a single mode if their means are at most twice the smaller
standard deviation apart (Behboodian, Technometrics 12:131, 1970).  Charts that put a cell that
close are one place: their mass is added and their position is the mean, weighted by mass.  The
standard deviation of a chart is s_m = sqrt(trace C_m / 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from common.files.identity import check_version

Array = NDArray[np.float64]

CHARTS_VERSION = 1
"""Of the computation; checkpoints of another one are refused."""

MAX_CHARTS = 3

_NEIGHBOURS, _FEWEST = 20, 5
_DIRECTIONS = 12
_OFFSETS = tuple(0.15 * i for i in range(-4, 5))  # in RMS radii of the region
_LEAST_SHARE = 0.2  # of the cells of a region, on either side of a line through it


@dataclass(frozen=True, eq=False)
class Charts:
    """Regressions on M regions, as weights of a kernel's centres.

    Attributes:
        weights: (M, m, 2) float64, of the kernels of the m centres, for positions.
        offset: (M, 2) float64.
        mass: (m, M) float64, for q.
        mass_offset: (M,) float64.
        prior: (M,) float64, pi of the module.
        trust: t of the module.
        spread: (M,) float64, s_m of the module, in RMS radii of a slide.
        gain: nats by which a left-out training cell is likelier than with one region.
    """

    weights: Array
    offset: Array
    mass: Array
    mass_offset: Array
    prior: Array
    trust: float
    spread: Array
    gain: float

    def __len__(self) -> int:
        return len(self.offset)

    def of_kernels(self, values: Array) -> tuple[Array, Array]:
        """Positions (n, M, 2) and masses (n, M), which sum to 1, from kernel values (n, m)."""
        position = np.einsum("nk,mkc->nmc", values, self.weights, optimize=True) + self.offset
        told = shares(values @ self.mass + self.mass_offset)
        return position, self.prior + self.trust * (told - self.prior)

    def summary(self) -> dict[str, Any]:
        """What there is to know of them, for ``uns``."""
        return {
            "regions": len(self), "gain": self.gain, "trust": self.trust, "spread": self.spread,
        }  # fmt: skip

    def state(self) -> dict[str, Any]:
        """Tensors and plain types only, for ``torch.load(weights_only=True)``."""
        return {
            "version": CHARTS_VERSION,
            "weights": torch.from_numpy(self.weights),
            "offset": torch.from_numpy(self.offset),
            "mass": torch.from_numpy(self.mass),
            "mass_offset": torch.from_numpy(self.mass_offset),
            "prior": torch.from_numpy(self.prior),
            "trust": self.trust,
            "spread": torch.from_numpy(self.spread),
            "gain": self.gain,
        }

    @staticmethod
    def from_state(state: dict[str, Any]) -> Charts:
        """Rebuild what :meth:`state` gave.

        Raises:
            ValueError: if the state is of another version.
        """
        check_version(state, "charts", CHARTS_VERSION)
        return Charts(
            state["weights"].cpu().numpy(),
            state["offset"].cpu().numpy(),
            state["mass"].cpu().numpy(),
            state["mass_offset"].cpu().numpy(),
            state["prior"].cpu().numpy(),
            float(state["trust"]),
            state["spread"].cpu().numpy(),
            float(state["gain"]),
        )


def shares(mass: Array) -> Array:
    """(n, M) raw masses cut off at 0 and scaled to sum 1; equal shares where none is positive."""
    positive = np.maximum(mass, 0)
    total = positive.sum(axis=1, keepdims=True)
    return np.where(total > 0, positive / np.where(total > 0, total, 1), 1 / mass.shape[1])


def merged(position: Array, mass: Array, spread: Array) -> tuple[Array, Array]:
    """Places by falling mass, those too close to be two modes made one.

    Args:
        position: (n, M, 2).
        mass: (n, M), which sums to 1.
        spread: (M,) of the charts.

    Returns:
        (n, M, 2) and (n, M).  A place of mass 0, that of one that went into another among them, has
        the position of the first.  The mean under the masses is that of the arguments.
    """
    order = np.argsort(-mass, axis=1, kind="stable")
    p = np.take_along_axis(mass, order, axis=1)
    y = np.take_along_axis(position, order[:, :, None], axis=1)
    count, wide = p.shape[1], spread[order]
    into = np.tile(np.arange(count), (len(p), 1))  # the place that holds the mass of each
    for low in range(1, count):
        for high in range(low):
            apart = np.linalg.norm(y[:, low] - y[:, high], axis=1)
            close = apart <= 2 * np.minimum(wide[:, low], wide[:, high])
            one = (into[:, low] == low) & (into[:, high] == high) & close
            total = p[one, high] + p[one, low]
            share = (p[one, low] / np.where(total > 0, total, 1))[:, None]
            y[one, high] += share * (y[one, low] - y[one, high])
            p[one, high], p[one, low], into[one, low] = total, 0.0, high
    order = np.argsort(-p, axis=1, kind="stable")
    y, p = np.take_along_axis(y, order[:, :, None], axis=1), np.take_along_axis(p, order, axis=1)
    return np.where((p == 0)[:, :, None], y[:, :1], y), p


def fit_charts(
    cells: TrainingCells, penalty: Array, normalisation: Array, regions: Regions
) -> Charts:
    """Regress on each region.

    Args:
        cells: fitted to.
        penalty: (1 + m, 1 + m) of the ridge.
        normalisation: (m, m) from kernel values of the centres to features, for row vectors.
        regions: of the cells.
    """
    phi, label, count = cells.known, regions.label, regions.count
    found = [
        np.linalg.solve(phi[own].T @ phi[own] + penalty, phi[own].T @ cells.target[own])
        for own in (label == m for m in range(count))
    ]
    indicator = (label[:, None] == np.arange(count)).astype(np.float64)
    gram, moment = phi.T @ phi + penalty, phi.T @ indicator
    mass, told = np.linalg.solve(gram, moment), np.empty_like(indicator)
    for group in range(int(cells.group.max()) + 1):
        own = cells.group == group
        left = np.linalg.solve(gram - phi[own].T @ phi[own], moment - phi[own].T @ indicator[own])
        told[own] = cells.new[own] @ left
    prior = indicator.mean(axis=0)
    told, wanted = shares(told) - prior, indicator - prior
    size = float((told**2).sum())
    return Charts(
        np.stack([normalisation @ w[1:] for w in found]),
        np.stack([w[0] for w in found]),
        normalisation @ mass[1:],
        mass[0],
        prior,
        min(max(float((told * wanted).sum()) / size, 0.0), 1.0) if size > 0 else 0.0,
        regions.spread,
        regions.gain,
    )


@dataclass(frozen=True, eq=False)
class TrainingCells:
    """n cells of several slides in the common frame.

    Attributes:
        known: (n, 1 + m) a column of ones and the kernel features of the embeddings fitted to.
        new: the same of embeddings that look like a new slide's.
        target: (n, 2) positions.
        group: (n,) int, cells that are left out together to see how far masses can be trusted.
    """

    known: Array
    new: Array
    target: Array
    group: NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Regions:
    """Attributes:

    label: (n,) int, of each cell.
    count: M.
    spread: (M,) s_m of the module.
    gain: as :class:`Charts` has it.
    """

    label: NDArray[np.intp]
    count: int
    spread: Array
    gain: float


def nearest_outside(h: Array, known: Array, fold: NDArray[np.intp]) -> NDArray[np.intp]:
    """Rows of ``known`` nearest to each row of ``h`` that are not of its fold.

    Args:
        h: (q, d) embeddings.
        known: (q, d) of the same cells, to be found.
        fold: (q,) of both.

    Returns:
        (q, k), 20 of each; fewer where some cell has fewer, possibly none.
    """
    apart = cdist(h, known)
    apart[fold[:, None] == fold] = np.inf
    k = min(_NEIGHBOURS, len(fold) - int(np.bincount(fold).max(initial=0)))
    return np.argsort(apart, axis=1, kind="stable")[:, :k]


@dataclass(frozen=True, eq=False)
class _Line:
    """Cells with x . normal > height lie on the far side; ``region`` is the one it divides."""

    region: int
    angle: float
    height: float

    def divide(self, label: NDArray[np.intp], xy: Array) -> NDArray[np.intp]:
        """Labels in which the far side of the line has a new number, ``label.max() + 1``."""
        normal = np.array([np.cos(self.angle), np.sin(self.angle)])
        far = (label == self.region) & (xy @ normal > self.height)
        return np.where(far, label.max() + 1, label)


def cut(xy: Array, sample: NDArray[np.intp], near: NDArray[np.intp]) -> list[Regions]:
    """Cut training tissue into 2, ..., :data:`MAX_CHARTS` regions, each from the one before.

    Args:
        xy: (n, 2) positions of all cells in the common frame.
        sample: (q,) cells that lines are judged by.
        near: (q, k) of each, the cells nearest in H that are not of its fold; indices into ``xy``.

    Returns:
        One for each number of regions; fewer if no line leaves enough cells on either side, none
        if a cell has fewer than 5 neighbours.
    """
    if near.shape[1] < _FEWEST:
        return []
    base = _likelihood(xy, sample, near, np.zeros(len(xy), dtype=np.intp))[0]
    label, found = np.zeros(len(xy), dtype=np.intp), list[Regions]()
    for count in range(2, MAX_CHARTS + 1):
        best: tuple[float, _Line] | None = None
        for region in range(count - 1):
            own = xy[label == region]
            _, axes = np.linalg.eigh(np.cov(own.T))
            start = float(np.arctan2(axes[1, 1], axes[0, 1]))
            centre, radius = own.mean(axis=0), float(np.sqrt(own.var(axis=0).sum()))
            turns = start + np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS
            lines = [_through(region, a, o * radius, centre) for a in turns for o in _OFFSETS]
            best = _better(best, lines, label, xy, sample, near)
        if best is None:
            break
        turn, step = np.pi / _DIRECTIONS, (_OFFSETS[1] - _OFFSETS[0])
        for _ in range(2):
            turn, step = turn / 2, step / 2
            line = best[1]
            around = [
                _Line(line.region, line.angle + a * turn, line.height + o * step)
                for a in (-1, 0, 1) for o in (-1, 0, 1)
            ]  # fmt: skip
            best = _better(best, around, label, xy, sample, near) or best
        label = best[1].divide(label, xy)
        value, spread = _likelihood(xy, sample, near, label)
        found.append(Regions(label, count, spread, value - base))
    return found


def _through(region: int, angle: float, offset: float, centre: Array) -> _Line:
    normal = np.array([np.cos(angle), np.sin(angle)])
    return _Line(region, angle, float(centre @ normal) + offset)


def _better(
    best: tuple[float, _Line] | None,
    lines: Sequence[_Line],
    label: NDArray[np.intp],
    xy: Array,
    sample: NDArray[np.intp],
    near: NDArray[np.intp],
) -> tuple[float, _Line] | None:
    """The best of some lines and an earlier one, with its likelihood."""
    for line in lines:
        divided = line.divide(label, xy)
        own = np.bincount(divided, minlength=divided.max() + 1)[[line.region, -1]]
        if own.min() < _LEAST_SHARE * own.sum() or divided.max() == label.max():
            continue
        value = _likelihood(xy, sample, near, divided)[0]
        if best is None or value > best[0]:
            best = value, line
    return best


def _likelihood(
    xy: Array, sample: NDArray[np.intp], near: NDArray[np.intp], label: NDArray[np.intp]
) -> tuple[float, Array]:
    """Mean log-likelihood of the sample, and s_m; see the module."""
    count, k = int(label.max()) + 1, near.shape[1]
    places, own = xy[near], label[near]  # (q, k, 2), (q, k)
    of_own, truth = label[sample], xy[sample]
    log, spread = np.empty((len(near), count)), np.empty(count)
    for m in range(count):
        region, inside = xy[label == m], (own == m).astype(np.float64)
        middle, number = region.mean(axis=0), inside.sum(axis=1)
        mean = (np.einsum("qk,qkc->qc", inside, places) + middle) / (number + 1)[:, None]
        away = truth - mean
        residual, around = away[of_own == m], (region - middle).T @ (region - middle)
        covariance = residual.T @ residual + around / len(region) + 1e-12 * np.eye(2)
        covariance /= len(residual) + 1
        square = np.einsum("qc,cd,qd->q", away, np.linalg.inv(covariance), away)
        density = -0.5 * (square + np.linalg.slogdet(covariance)[1]) - np.log(2 * np.pi)
        log[:, m] = np.log((number + 1) / (k + count)) + density
        spread[m] = np.sqrt(np.trace(covariance) / 2)
    return float(logsumexp(log, axis=1).mean()), spread
