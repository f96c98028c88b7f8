"""Positions of new cells in the common frame of the training slides, by kernel ridge regression.

The model places cells by relations between them, and a layout that is right almost everywhere may
still be folded or bent as a whole: no local loss sees it.  Regression of coordinates on embeddings
errs otherwise: each cell by itself, blurred and shrunk towards the middle where expression says
little, but with nothing to fold.  What averaging the two does on real slides is in
``benchmarks/reports/spatial_experiments.md``.

Training slides are turned into one frame by their embeddings
(:mod:`spatial_ipa.layout.registration`), so the pose they come in does not matter.  With y their
gauge-fixed coordinates there and h their embeddings, ridge regression of y on the features of a
Gaussian kernel,

    k(h, c) = exp(-|h - c|^2 / (2 s^2)),    s^2 = mean |h_i - h_j|^2 over training cells,

penalty 1, Nystroem approximation on up to 1024 of the cells c (Williams and Seeger, NIPS 2000).
Kernel ridge is linear in y: turning all slides turns the result.  The prediction z_i is averaged
over the cell and its nearest in H among the new cells, 2 % of them and at least three; of more than
4096 new cells, neighbours are sought in a sample of that many, so that the work grows linearly.

The layout x (mean 0, RMS radius 1) and z, turned or mirrored onto x, are then added, and the sum is
brought back into gauge.  z keeps its own scale: a regression that explains little is short and
counts for little, so nothing has to be weighed.  Up to four cells z is the same for all and
changes nothing.

Where expression occurs at several places, the frame also holds the regressions of
:mod:`spatial_ipa.layout.charts`.  With f_m their positions of a cell and p_m their masses, averaged
over neighbours as z is, places that are one are merged, and hypothesis m of a cell is

    x + c (f_m - z) R,

R turning z onto x and c the scale at which z fits x best: the place that the mean is exchanged for,
and what the layout has beyond the regression.  A cell with a single place stays at x.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import Ridge
from sklearn.metrics.pairwise import rbf_kernel
from torch import Tensor

from common.align import align
from common.errors import UserError
from common.files.identity import check_version
from common.rng import numpy_generator_for
from spatial_ipa.data.slide import EmbeddedSlide
from spatial_ipa.geometry.gauge import gauge_fix_array
from spatial_ipa.geometry.neighbours import nearest
from spatial_ipa.layout.charts import (
    Charts,
    TrainingCells,
    cut,
    fit_charts,
    merged,
    nearest_outside,
)
from spatial_ipa.layout.placement import Placement
from spatial_ipa.layout.registration import slide_rotations

Array = NDArray[np.float64]

FRAME_VERSION = 1
"""Of the computation; checkpoints of another one are refused: their error radii belong to it."""

# Bounds on what is registered, regressed on and kept: 0.5 MB at 128 numbers a cell.
MAX_SLIDES, MAX_CELLS, MAX_CENTRES = 16, 16_384, 1024
_REGISTERED = 1024  # cells of a slide
_PENALTY = 1.0
_MATCHED = 10  # mutual neighbours of two slides
# Neighbours averaged over: this share of the cells they are sought among, and at least so many.
_SAMPLE, _SHARE, _FEWEST = 4096, 0.02, 3
_JUDGED = 1024  # training cells that charts are chosen by
_FIFTHS = 5
_BLOCK = 8192  # new cells at once


@dataclass(frozen=True, eq=False)
class FrameRegression:
    """Attributes:

    centres: (m, d) float32 embeddings c.
    weights: (m, 2) float64, of their kernels.
    offset: (2,) float64.
    gamma: 1 / (2 s^2).
    charts: for 2 and more hypotheses, in order; empty where none were fitted.
    """

    centres: np.ndarray
    weights: Array
    offset: Array
    gamma: float
    charts: tuple[Charts, ...] = ()

    @staticmethod
    def fit(slides: Sequence[EmbeddedSlide], seed: int = 0) -> FrameRegression:
        """Register training slides and regress on their ``h_frame``; of more than 16 slides, 16
        drawn with ``seed``.

        Raises:
            ValueError: if there is no slide, one is empty or has embeddings that are not finite, or
                all cells have the same embedding.
        """
        return _Fit.of(slides, seed).frame

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

    def on_tensors(self) -> Callable[[Tensor], Tensor]:
        """:meth:`predict` of tensors (n, d), in their dtype and on their device."""
        centres = torch.from_numpy(self.centres).double()
        weights, offset = torch.from_numpy(self.weights), torch.from_numpy(self.offset)
        gamma = self.gamma

        @torch.no_grad()
        def start(h: Tensor) -> Tensor:
            c, w, o = (t.to(h.device) for t in (centres, weights, offset))
            found = []
            for block in h.split(_BLOCK):
                rows = block.double()
                square = rows.square().sum(1)[:, None] + c.square().sum(1) - 2 * rows @ c.T
                found.append(((-gamma * square.clamp_min(0)).exp() @ w + o).to(h.dtype))
            return torch.cat(found)

        return start

    def refine(
        self, placement: Placement, h: np.ndarray, seed: int = 0, weight: float = 1.0
    ) -> Placement:
        """Add the averaged regression to a layout; the draws move with their mean.

        All draws are moved alike and then brought to the scale of the sum, so their spread shrinks
        with the share of the regression, which has no draws.

        Args:
            placement: n cells, gauge-fixed.
            h: (n, d) their embeddings.
            seed: of the sample in which the neighbours of many cells are sought.
            weight: of the regression beside the layout.
        """
        x = placement.xy.double()
        z = torch.from_numpy(self.averaged(h, seed)).to(x.device)
        # Both have the mean of x, which is 0.
        total = x + weight * align(z, x, reflection=True).apply(z)
        scale = total.square().sum(1).mean().sqrt()
        draws = (placement.draws.double() + (total - x)) / scale
        return Placement((total / scale).to(placement.xy), draws.to(placement.draws))

    def averaged(self, h: np.ndarray, seed: int = 0) -> Array:
        """(n, 2) predictions, each the mean over the cell and its nearest in H; at least 2 cells.

        Arguments are those of :meth:`refine`.
        """
        return _averaged(self.predict(h), h, seed)

    def hypotheses(
        self, placement: Placement, h: np.ndarray, count: int, seed: int = 0
    ) -> tuple[Array, Array]:
        """Several positions of each cell, in the pose and unit of a layout.

        Args:
            placement: n cells, gauge-fixed, as :meth:`refine` leaves them.
            h: (n, d) their embeddings.
            count: M, hypotheses per cell.
            seed: as :meth:`refine`.

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
        found = _averaged(found, h, seed)
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
            f"num_hypotheses={count}, but the checkpoint holds no charts for it: it is of an "
            "earlier version, or of too few training cells; fit the model anew, or set "
            "num_hypotheses to 1"
        )

    def state(self) -> dict[str, Any]:
        """Tensors and plain types only, for ``torch.load(weights_only=True)``."""
        return {
            "version": FRAME_VERSION,
            "centres": torch.from_numpy(self.centres),
            "weights": torch.from_numpy(self.weights),
            "offset": torch.from_numpy(self.offset),
            "gamma": self.gamma,
            "charts": [charts.state() for charts in self.charts],
        }

    @staticmethod
    def from_state(state: dict[str, Any]) -> FrameRegression:
        """Rebuild what :meth:`state` gave; that of earlier versions has no charts.

        Raises:
            ValueError: if the state is of another version.
        """
        check_version(state, "common frame", FRAME_VERSION)
        return FrameRegression(
            state["centres"].cpu().numpy(),
            state["weights"].cpu().numpy(),
            state["offset"].cpu().numpy(),
            float(state["gamma"]),
            tuple(Charts.from_state(charts) for charts in state.get("charts", ())),
        )


def _averaged(found: Array, h: np.ndarray, seed: int) -> Array:
    """(n, c) mean of ``found`` (n, c) over each cell and its nearest in H; at least 2 cells."""
    n = len(h)
    rows = np.arange(n)
    if n > _SAMPLE:
        rows = np.sort(numpy_generator_for(seed, 79).permutation(n)[:_SAMPLE])
    k = min(max(round(_SHARE * len(rows)), _FEWEST), len(rows) - 1)
    averaged = np.empty_like(found)
    for start in range(0, n, _BLOCK):
        block = slice(start, start + _BLOCK)
        # One more than wanted: a cell of the sample is its own nearest.
        _, index = nearest(h[block], h[rows], k + 1)
        near, own = rows[index], np.arange(n)[block, None]
        others = near != own
        others[others.all(axis=1), -1] = False
        total = (found[near] * others[:, :, None]).sum(axis=1) + found[block]
        averaged[block] = total / (k + 1)
    return averaged


def cross_fit(
    slides: Sequence[EmbeddedSlide], seed: int = 0
) -> tuple[FrameRegression, list[EmbeddedSlide]]:
    """The frame of training slides, and where each of their cells would start if it were new.

    The start of a cell is the regression on its ``h`` with its whole fold left out of the fit, in
    closed form: with Phi the kernel features and a column of ones, A = Phi' Phi + penalty (not on
    the ones), w = A^-1 Phi' y and b a fold, the fit without it has the weights

        w - A^-1 Phi_b' (I - Phi_b A^-1 Phi_b')^-1 (y_b - Phi_b w)

    (the block form of the identity behind leave-one-out residuals, Cook and Weisberg, Residuals
    and Influence in Regression, 1982).  Where a slide has no folds every cell is one of its own.

    Returns:
        The frame, as :meth:`FrameRegression.fit` but with charts, and the slides with their
        ``start``.

    Raises:
        ValueError: as :meth:`FrameRegression.fit`.
    """
    fit = _Fit.of(slides, seed)
    phi = np.column_stack([np.ones(len(fit.target)), fit.kernel.transform(fit.features)])
    penalty = _PENALTY * np.eye(phi.shape[1])
    penalty[0, 0] = 0.0
    inverse = np.linalg.inv(phi.T @ phi + penalty)
    weights = inverse @ (phi.T @ fit.target)
    found = []
    for s, slide in enumerate(slides):
        h = np.asarray(slide.h, dtype=np.float64)
        start = np.empty((len(h), 2), dtype=np.float32)
        fold = np.arange(len(h)) if slide.fold is None else slide.fold
        order = np.argsort(fold, kind="stable")
        ends = np.flatnonzero(np.diff(fold[order])) + 1
        for cells in np.split(order, ends):
            left = np.flatnonzero((fit.slide == s) & np.isin(fit.row, cells))
            own = phi[left]
            pulled = inverse @ own.T
            residual = fit.target[left] - own @ weights
            without = weights - pulled @ np.linalg.solve(np.eye(len(left)) - own @ pulled, residual)
            there = np.column_stack([np.ones(len(cells)), fit.kernel.transform(h[cells])])
            start[cells] = there @ without
        found.append(replace(slide, start=start))
    new, fold = _as_new(fit, slides)
    regions = cut(fit.target, *_left_out_neighbours(fit, new, fold, seed))
    alone = len(np.unique(fit.slide)) == 1
    group = np.unique(fold % _FIFTHS if alone else fit.slide, return_inverse=True)[1]
    there = np.column_stack([np.ones(len(new)), fit.kernel.transform(new)])
    fitted = TrainingCells(phi, there, fit.target, group)
    charts = tuple(fit_charts(fitted, penalty, fit.kernel.normalization_.T, r) for r in regions)
    return replace(fit.frame, charts=charts), found


def _as_new(fit: _Fit, slides: Sequence[EmbeddedSlide]) -> tuple[Array, NDArray[np.intp]]:
    """(n, d) the ``h`` of the cells fitted to, and (n,) their folds, numbered over all slides."""
    h, fold = fit.features.copy(), fit.row.copy()
    for s, slide in enumerate(slides):
        own = fit.slide == s
        h[own] = slide.h[fold[own]]
        if slide.fold is not None:
            fold[own] = slide.fold[fold[own]]
    return h, np.unique(np.column_stack([fit.slide, fold]), axis=0, return_inverse=True)[1]


def _left_out_neighbours(
    fit: _Fit, new: Array, fold: NDArray[np.intp], seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Up to 1024 cells (q,), and of each the nearest among them (q, k) outside of its fold.

    A cell is sought for by the H that leaves its fold out, among those that leave one cell out, as
    a new cell would be.
    """
    sample = np.sort(numpy_generator_for(seed, 83).permutation(len(new))[:_JUDGED])
    near = nearest_outside(new[sample], fit.features[sample], fold[sample])
    return sample, sample[near]


@dataclass(frozen=True, eq=False)
class _Fit:
    """What a frame was fitted to.

    Attributes:
        frame: the fit.
        kernel: its kernel features.
        features: (n, d) float64 embeddings of the cells fitted to.
        target: (n, 2) their positions in the common frame.
        slide: (n,) index of each cell's slide.
        row: (n,) its row there.
    """

    frame: FrameRegression
    kernel: Nystroem
    features: Array
    target: Array
    slide: NDArray[np.intp]
    row: NDArray[np.intp]

    @staticmethod
    def of(slides: Sequence[EmbeddedSlide], seed: int) -> _Fit:
        """Register slides and regress; see :meth:`FrameRegression.fit`."""
        if not slides:
            raise UserError("slides is empty: a common frame needs at least one training slide")
        for slide in slides:
            if len(slide.xy) == 0:
                raise UserError(f"slide {slide.name} has no cells")
            slide.check_finite()
        rng = numpy_generator_for(seed)
        chosen = sorted(rng.permutation(len(slides))[:MAX_SLIDES].tolist())
        h, xy, rows = [], [], []
        for slide in (slides[i] for i in chosen):
            row = rng.permutation(len(slide.xy))[: MAX_CELLS // len(chosen)]
            known = slide.h if slide.h_frame is None else slide.h_frame
            h.append(np.asarray(known[row], dtype=np.float64))
            xy.append(gauge_fix_array(slide.xy[row]))
            rows.append(row)
        matched = min(_MATCHED, *(len(x) for x in xy))
        rotations = slide_rotations(
            [x[:_REGISTERED] for x in h], [x[:_REGISTERED] for x in xy], k=matched
        )
        features = np.concatenate(h)
        target = np.concatenate([x @ r for x, r in zip(xy, rotations, strict=True)])
        spread = 2 * float(features.var(axis=0).sum())  # mean squared distance of two cells
        if not spread > 0:
            raise UserError("all training cells have the same embedding: nothing to regress on")
        gamma = 1 / (2 * spread)
        kernel = Nystroem(
            gamma=gamma,
            n_components=min(MAX_CENTRES, len(features)),
            random_state=int(rng.integers(2**31)),
        )
        ridge = Ridge(_PENALTY).fit(kernel.fit_transform(features), target)
        weights = kernel.normalization_.T @ ridge.coef_.T
        centres = kernel.components_.astype(np.float32)
        frame = FrameRegression(centres, weights, np.asarray(ridge.intercept_), gamma)
        number = np.repeat(chosen, [len(r) for r in rows])
        return _Fit(frame, kernel, features, target, number, np.concatenate(rows))
