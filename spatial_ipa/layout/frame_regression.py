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
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
_BLOCK = 8192  # new cells at once


@dataclass(frozen=True, eq=False)
class FrameRegression:
    """Attributes:

    centres: (m, d) float32 embeddings c.
    weights: (m, 2) float64, of their kernels.
    offset: (2,) float64.
    gamma: 1 / (2 s^2).
    """

    centres: np.ndarray
    weights: Array
    offset: Array
    gamma: float

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
        if h.ndim != 2 or h.shape[1] != self.centres.shape[1]:
            raise UserError(f"h must have shape (n, {self.centres.shape[1]}), got {h.shape}")
        centres, found = self.centres.astype(np.float64), np.empty((len(h), 2))
        for start in range(0, len(h), _BLOCK):
            rows = slice(start, start + _BLOCK)
            values = rbf_kernel(h[rows].astype(np.float64), centres, gamma=self.gamma)
            found[rows] = values @ self.weights + self.offset
        return found

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
        found, n = self.predict(h), len(h)
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

    def state(self) -> dict[str, Any]:
        """Tensors and plain types only, for ``torch.load(weights_only=True)``."""
        return {
            "version": FRAME_VERSION,
            "centres": torch.from_numpy(self.centres),
            "weights": torch.from_numpy(self.weights),
            "offset": torch.from_numpy(self.offset),
            "gamma": self.gamma,
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
        )


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
        The frame, as :meth:`FrameRegression.fit`, and the slides with their ``start``.

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
    return fit.frame, found


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
