"""Fit of the common frame, and of its settings, to training slides.

Slides are brought into one frame by their embeddings (:mod:`spatial_ipa.layout.partial`), whole
slides onto each other and parts beside each other, so the pose they come in does not matter. Width
of the kernel, penalty and sharpness of
:class:`~spatial_ipa.layout.frame_regression.FrameRegression` are those under which the training
cells, each placed by a fit without its part of the slide, look most like their slides: the lowest
squared Procrustes error, averaged over slides. A slide has ten parts for this, not the thirty of
starts: what is chosen on small parts is too sharp for a new slide that differs from the training
slides (``docs/how_spatial.md``). The error sees neither pose nor scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.kernel_approximation import Nystroem

from common.errors import UserError
from common.rng import numpy_generator_for
from spatial_ipa.data.slide import EmbeddedSlide
from spatial_ipa.geometry.blocks import spatial_blocks
from spatial_ipa.geometry.gauge import gauge_fix_array
from spatial_ipa.geometry.metrics import procrustes_rmse
from spatial_ipa.layout.charts import Charts, TrainingCells, cut, fit_charts, nearest_outside
from spatial_ipa.layout.frame_regression import Array, FrameRegression, mean_of_alike
from spatial_ipa.layout.partial import slide_poses

WIDTHS = (1.0, 3.0)
"""Factors f of the kernel's exponent that are compared."""

PENALTIES = (0.1, 1.0, 10.0)
"""Penalties that are compared."""

SHARPNESSES = (2.0, 4.0, 8.0, 16.0, 64.0)
"""Values of b that are compared; the last leaves a cell almost by itself."""

# Bounds on what is registered, regressed on and kept: 0.5 MB at 128 numbers a cell.
MAX_SLIDES, MAX_CELLS, MAX_CENTRES = 16, 16_384, 1024
_REGISTERED = 1024  # cells of a slide
_JUDGED = 1024  # cells of a slide by which settings are compared, and of all by which it is cut
_FIFTHS = 5
_MATCHED = 10  # mutual neighbours of two slides
_PARTS = 10  # of a slide, left out in turn where settings are compared


def cross_fit(
    slides: Sequence[EmbeddedSlide], seed: int = 0
) -> tuple[FrameRegression, list[EmbeddedSlide]]:
    """The frame of training slides, and where each of their cells would start if it were new.

    The start of a cell is the regression on its ``h`` with its whole fold left out of the fit, in
    closed form: with Phi the kernel features and a column of ones, A = Phi' Phi + penalty (not on
    the ones), w = A^-1 Phi' y and b a fold, the fit without it has the weights

        w - A^-1 Phi_b' (I - Phi_b A^-1 Phi_b')^-1 (y_b - Phi_b w)

    (the block form of the identity behind leave-one-out residuals, Cook and Weisberg, Residuals
    and Influence in Regression, 1982), averaged over the alike cells of its slide, each by the fit
    without its own fold.  A slide without folds gets those of
    :func:`~spatial_ipa.geometry.blocks.spatial_blocks`.

    Args:
        slides: training slides; of more than 16, 16 drawn with ``seed`` are fitted to.
        seed: of draws.

    Returns:
        The frame, and the slides with their ``start``.

    Raises:
        ValueError: if there is no slide, one is empty or has embeddings that are not finite, or all
            cells have the same embedding.
    """
    data = _Registered.of(slides, seed)
    parts = [spatial_blocks(s.xy, _PARTS) for s in slides]
    best: tuple[float, _Ridge, float] | None = None
    for width in WIDTHS:
        features = _Features.of(data, slides, width, seed)
        for penalty in PENALTIES:
            ridge = _Ridge.of(features, data, penalty)
            starts = ridge.without(data, parts)
            for sharpness in SHARPNESSES:
                error = _error(slides, starts, sharpness, seed)
                if best is None or error < best[0]:
                    best = error, ridge, sharpness
    assert best is not None, "there are settings to compare"
    _, ridge, sharpness = best
    folds = [spatial_blocks(s.xy) if s.fold is None else s.fold for s in slides]
    started = [
        replace(s, start=mean_of_alike(z, s.h, sharpness, seed).astype(np.float32))
        for s, z in zip(slides, ridge.without(data, folds), strict=True)
    ]
    charts = _charts(data, ridge, slides, folds, seed)
    return replace(ridge.frame(sharpness), charts=charts), started


def _charts(
    data: _Registered,
    ridge: _Ridge,
    slides: Sequence[EmbeddedSlide],
    folds: Sequence[np.ndarray],
    seed: int,
) -> tuple[Charts, ...]:
    """What several hypotheses need; see :mod:`spatial_ipa.layout.charts`."""
    new, fold = _as_new(data, slides, folds)
    regions = cut(data.target, *_left_out_neighbours(data, new, fold, seed))
    alone = len(np.unique(data.slide)) == 1
    group = np.unique(fold % _FIFTHS if alone else data.slide, return_inverse=True)[1]
    features = ridge.features
    there = np.empty_like(features.fitted)
    for s, known in enumerate(features.slides):
        own = data.slide == s
        there[own] = known[data.row[own]]
    cells = TrainingCells(features.fitted, there, data.target, group)
    shrunk = _penalties(ridge.penalty, len(ridge.weights))
    onto_centres = features.kernel.normalization_.T
    return tuple(fit_charts(cells, shrunk, onto_centres, region) for region in regions)


def _error(
    slides: Sequence[EmbeddedSlide], starts: Sequence[Array], sharpness: float, seed: int
) -> float:
    """Squared Procrustes error of starts (n, 2) averaged with ``sharpness``, mean over slides."""
    found = []
    for s, (slide, start) in enumerate(zip(slides, starts, strict=True)):
        rows = numpy_generator_for(seed, 81, s).permutation(len(start))[:_JUDGED]
        placed = mean_of_alike(start[rows], slide.h[rows], sharpness, seed)
        found.append(procrustes_rmse(placed, slide.xy[rows]) ** 2)
    return float(np.mean(found))


@dataclass(frozen=True, eq=False)
class _Registered:
    """Cells that are fitted to, in one frame.

    Attributes:
        h: (n, d) float64 embeddings.
        target: (n, 2) positions in the common frame.
        slide: (n,) index of each cell's slide.
        row: (n,) its row there.
        spread: mean squared distance of two cells.
    """

    h: Array
    target: Array
    slide: NDArray[np.intp]
    row: NDArray[np.intp]
    spread: float

    @staticmethod
    def of(slides: Sequence[EmbeddedSlide], seed: int) -> _Registered:
        """Draw cells and turn the slides into one frame; see :func:`cross_fit`."""
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
        poses = slide_poses([x[:_REGISTERED] for x in h], [x[:_REGISTERED] for x in xy], k=matched)
        cells = np.concatenate(h)
        spread = 2 * float(cells.var(axis=0).sum())
        if not spread > 0:
            raise UserError("all training cells have the same embedding: nothing to regress on")
        target = np.concatenate([p.apply(x) for x, p in zip(xy, poses, strict=True)])
        number = np.repeat(chosen, [len(r) for r in rows])
        return _Registered(cells, target, number, np.concatenate(rows), spread)


def _as_new(
    data: _Registered, slides: Sequence[EmbeddedSlide], folds: Sequence[np.ndarray]
) -> tuple[Array, NDArray[np.intp]]:
    """(n, d) the ``h`` of the cells fitted to, and (n,) their folds, numbered over all slides."""
    h, fold = data.h.copy(), data.row.copy()
    for s, (slide, its_fold) in enumerate(zip(slides, folds, strict=True)):
        own = data.slide == s
        h[own], fold[own] = slide.h[data.row[own]], its_fold[data.row[own]]
    return h, np.unique(np.column_stack([data.slide, fold]), axis=0, return_inverse=True)[1]


def _left_out_neighbours(
    data: _Registered, new: Array, fold: NDArray[np.intp], seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Up to 1024 cells (q,), and of each the nearest among them (q, k) outside of its fold.

    A cell is sought for by the H that leaves its fold out, among those that are fitted to, as a new
    cell would be.
    """
    sample = np.sort(numpy_generator_for(seed, 83).permutation(len(new))[:_JUDGED])
    near = nearest_outside(new[sample], data.h[sample], fold[sample])
    return sample, sample[near]


@dataclass(frozen=True, eq=False)
class _Features:
    """Kernel features of one width, each with a leading column of ones.

    Attributes:
        kernel: their map.
        fitted: (n, 1 + m) of the cells that are fitted to.
        slides: (n_s, 1 + m) of the ``h`` of every slide.
    """

    kernel: Nystroem
    fitted: Array
    slides: list[Array]

    @staticmethod
    def of(
        data: _Registered, slides: Sequence[EmbeddedSlide], width: float, seed: int
    ) -> _Features:
        kernel = Nystroem(
            gamma=width / (2 * data.spread),
            n_components=min(MAX_CENTRES, len(data.h)),
            random_state=int(numpy_generator_for(seed, 82).integers(2**31)),
        )
        fitted = _with_ones(kernel.fit_transform(data.h))
        own = [_with_ones(kernel.transform(np.asarray(s.h, dtype=np.float64))) for s in slides]
        return _Features(kernel, fitted, own)


def _penalties(penalty: float, width: int) -> Array:
    """(width, width) of ridge regression with a leading column of ones, which has none."""
    found = penalty * np.eye(width)
    found[0, 0] = 0.0
    return found


def _with_ones(features: Array) -> Array:
    return np.column_stack([np.ones(len(features)), features])


@dataclass(frozen=True, eq=False)
class _Ridge:
    """One ridge regression: its weights, and what leaving cells out takes.

    Attributes:
        features: regressed on.
        penalty: not on the column of ones.
        inverse: (1 + m, 1 + m) A^-1.
        weights: (1 + m, 2) w.
    """

    features: _Features
    penalty: float
    inverse: Array
    weights: Array

    @staticmethod
    def of(features: _Features, data: _Registered, penalty: float) -> _Ridge:
        phi = features.fitted
        found = np.linalg.inv(phi.T @ phi + _penalties(penalty, phi.shape[1]))
        inverse = np.asarray(found, dtype=np.float64)
        return _Ridge(features, penalty, inverse, inverse @ (phi.T @ data.target))

    def without(self, data: _Registered, folds: Sequence[np.ndarray]) -> list[Array]:
        """(n, 2) predictions for the cells of each slide, by fits without their fold (n,) of it."""
        return [self._without(data, s, fold) for s, fold in enumerate(folds)]

    def _without(self, data: _Registered, s: int, fold: np.ndarray) -> Array:
        there = self.features.slides[s]
        found = np.empty((len(fold), 2))
        fitted = np.flatnonzero(data.slide == s)
        its_fold = fold[data.row[fitted]]
        for part in np.unique(fold):
            cells, left = fold == part, fitted[its_fold == part]
            own = self.features.fitted[left]
            pulled = self.inverse @ own.T
            residual = data.target[left] - own @ self.weights
            moved = pulled @ np.linalg.solve(np.eye(len(left)) - own @ pulled, residual)
            found[cells] = there[cells] @ (self.weights - moved)
        return found

    def frame(self, sharpness: float) -> FrameRegression:
        kernel = self.features.kernel
        return FrameRegression(
            kernel.components_.astype(np.float32),
            kernel.normalization_.T @ self.weights[1:],
            self.weights[0],
            float(kernel.gamma),
            self.penalty,
            sharpness,
        )
