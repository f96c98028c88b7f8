"""Kernel regression from expression to the eigenmaps of the training slides' neighbour kernels.

Two sets of linear scores of the expression z: spatial PCA (:mod:`spatial_ipa.encoder.spatial_pca`)
of z, and of z with every gene times its weight (:mod:`spatial_ipa.encoder.moran`).  With d_b the
distance in the scores b = 1, 2 and s2_b the mean of d_b^2 over all pairs of training cells,

    K_ij = mean_b exp(-d_b,ij^2 / (2 v s2_b)),                      v = width.

On a training slide with spatial distances r_ij, and s_i that to the k-th neighbour (k = 0.15 n,
:func:`~spatial_ipa.geometry.graphs.adaptive_k`), the neighbour kernel exp(-r_ij^2 / (s_i s_j)) is
centred in rows and columns; its 64 leading eigenvectors, each times the root of its eigenvalue, are
the targets of the slide's cells, and 0 those of all other slides: T is a block matrix.  Kernel
ridge regression (:mod:`spatial_ipa.encoder.kernel_ridge`) predicts them for any cell,
P = K_new (K + penalty I)^-1 T, and P is turned to the ``d_out`` leading right singular vectors of
the training rows' own predictions.

P_i . P_j is then the least-squares estimate of the neighbour kernel between two new cells: how
much they would be neighbours by their likeness to training cells.  No slide is registered with
another, and only spatial distances within a slide enter, up to a factor: the result does not depend
on pose or unit.  The eigenmaps are Laplacian eigenmaps up to normalisation (Belkin and Niyogi,
Neural Comput. 15:1373, 2003) with the local scales of Zelnik-Manor and Perona (NIPS 2004).

Rows without counts take no part.  Beyond 20,000 training cells so many are drawn, evenly over
slides and at most 4,000 of each; beyond ``max_landmarks`` the regression is one on landmarks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from common.errors import UserError
from common.rng import numpy_generator_for
from spatial_ipa.data.expression import Expression
from spatial_ipa.encoder.kernel_ridge import Array, ExactRidge, LandmarkRidge, Ridge
from spatial_ipa.encoder.kernel_trunk import KernelTrunk, gaussian_kernel
from spatial_ipa.encoder.moran import gene_weights
from spatial_ipa.encoder.settings import StartSettings
from spatial_ipa.encoder.starts import linear_start
from spatial_ipa.geometry.graphs import adaptive_k

_EIGENMAPS = 64  # per slide,
_MAX_EIGENMAPS = 4096  # but at most so many in all
_SLIDE_ROWS = 4000  # most training rows of one slide: its eigenproblem is dense
_MAX_ROWS = 20_000  # most training rows in all
_BLOCK = 2048  # rows of the kernel matrix made at once


def neighbour_eigenmaps(xy: np.ndarray, count: int = _EIGENMAPS) -> Array:
    """(n, c) float64 eigenvectors of the centred neighbour kernel times the roots of its positive
    eigenvalues, descending, c <= count; see the module.

    Args:
        xy: (n, 2) coordinates in any unit and pose.
        count: most of them.

    Raises:
        ValueError: if there are fewer than three cells, or cells coincide with their k nearest.
    """
    n = len(xy)
    if n < 3:
        raise UserError(f"a training slide has {n} cells with counts, at least 3 are needed")
    distance = cdist(xy, xy)
    scale = np.partition(distance, adaptive_k(n), axis=1)[:, adaptive_k(n)]
    if not scale.all():
        raise UserError(
            f"{int((scale == 0).sum())} of {n} points coincide with their {adaptive_k(n)} nearest "
            "neighbours; remove duplicated coordinates"
        )
    kernel = np.exp(-np.square(distance) / np.outer(scale, scale))
    mean = kernel.mean(axis=0)
    kernel += kernel.mean() - mean - mean[:, None]
    count = min(count, n - 1)
    values, vectors = scipy.linalg.eigh(kernel, subset_by_index=(n - count, n - 1))
    order = np.flatnonzero(values > 1e-9 * values[-1])[::-1]
    found: Array = vectors[:, order] * np.sqrt(values[order])
    return found


def even_share(sizes: Sequence[int], total: int) -> list[int]:
    """How many to take of each group, so that ``total`` are taken and none is favoured.

    Small groups are taken whole, of all others equal numbers up to one.
    """
    taken = [0] * len(sizes)
    left = min(total, sum(sizes))
    for rank, group in enumerate(sorted(range(len(sizes)), key=lambda g: sizes[g])):
        taken[group] = min(sizes[group], left // (len(sizes) - rank))
        left -= taken[group]
    return taken


def fit_eigenmaps(
    slides: Sequence[Expression],
    coordinates: Sequence[np.ndarray],
    settings: StartSettings,
    d_out: int = 128,
    seed: int = 0,
) -> KernelTrunk:
    """The encoder of some training slides, in closed form; see the module.

    Args:
        slides: training slides on one panel.
        coordinates: (n_s, 2) of each.
        settings: of the start.
        d_out: width of H; columns that the targets cannot fill are 0.
        seed: of the rows drawn of large slides, and of the components.

    Raises:
        ValueError: if lists disagree, or expression or coordinates have nothing to learn from.
    """
    if len(slides) != len(coordinates) or not slides:
        raise UserError(f"got {len(slides)} slides and {len(coordinates)} sets of coordinates")
    filled = [np.flatnonzero(s.filled) for s in slides]
    used = [s.subset(f) for s, f in zip(slides, filled, strict=True)]
    located = [
        np.asarray(xy, dtype=np.float64)[f] for xy, f in zip(coordinates, filled, strict=True)
    ]
    maps = _linear_maps(used, located, settings, d_out, seed)

    drawn = _draw([len(s) for s in used], settings.max_landmarks, seed)
    scores = linear_scores((s.subset(r) for s, r in zip(used, drawn.rows, strict=True)), maps)
    widths = [2 * settings.width * _mean_square_distance(z) for z in scores]
    ridge = make_ridge(scores, widths, drawn.landmarks, settings.penalty)
    count = max(1, min(_EIGENMAPS, _MAX_EIGENMAPS // len(slides)))
    blocks = [neighbour_eigenmaps(xy[r], count) for xy, r in zip(located, drawn.rows, strict=True)]
    targets = _turned(ridge, blocks, d_out)

    m = len(drawn.landmarks)
    trunk = KernelTrunk(maps.shape[1], d_out, m, maps.shape[2], len(targets))
    coefficients = ridge.coefficients(targets)
    variance = float(ridge.predictions(targets).var(axis=0).mean())
    numbers = np.repeat(np.arange(len(slides)), [len(r) for r in drawn.rows])
    rows = np.concatenate([f[r] for f, r in zip(filled, drawn.rows, strict=True)])
    trunk.load_state_dict(
        {
            "maps": torch.from_numpy(maps),
            "landmarks": torch.from_numpy(np.stack([z[drawn.landmarks] for z in scores])).float(),
            "widths": torch.tensor(widths),
            "coefficients": torch.from_numpy(coefficients).float(),
            "out_scale": torch.tensor(variance**-0.5),
            "smooth": torch.tensor(settings.smooth),
            "penalty": torch.tensor(settings.penalty),
            "targets": torch.from_numpy(targets).float(),
            "slide": torch.from_numpy(numbers),
            "row": torch.from_numpy(rows),
            "landmark_rows": torch.from_numpy(drawn.landmarks),
        }
    )
    return trunk


def linear_scores(slides: Iterable[Expression], maps: np.ndarray) -> list[Array]:
    """(n, r) float64 of the rows of some slides by each of the maps (2, G, r)."""
    by_slide = [[x.project(w) for w in maps] for x in (slide.loaded() for slide in slides)]
    return [np.concatenate(parts) for parts in zip(*by_slide, strict=True)]


def make_ridge(
    scores: Sequence[Array], widths: Sequence[float], landmarks: NDArray[np.intp], penalty: float
) -> Ridge:
    """The regression on the kernel of the module: exact if all rows are landmarks.

    Args:
        scores: two (n, r) float64 of the training rows.
        widths: the denominators 2 v s2 of their kernels.
        landmarks: (m,) rows.
        penalty: of the regression.
    """
    kernel = make_kernel(scores, [z[landmarks] for z in scores], widths)
    if len(landmarks) < len(kernel):
        return LandmarkRidge.fit(kernel, kernel[landmarks], penalty)
    return ExactRidge.fit(kernel, penalty)


def make_kernel(rows: Sequence[Array], others: Sequence[Array], widths: Sequence[float]) -> Array:
    """(n, m) float64 K between cells, from their scores (n, r) and (m, r) and the widths."""
    kernel = np.zeros((len(rows[0]), len(others[0])))
    for z, other, width in zip(rows, others, widths, strict=True):
        a, b = torch.from_numpy(z), torch.from_numpy(other)
        for start in range(0, len(z), _BLOCK):
            part = slice(start, start + _BLOCK)
            kernel[part] += gaussian_kernel(a[part], b, width).numpy() / 2
    return kernel


@dataclass(frozen=True)
class _Drawn:
    """Training rows of each slide, ascending, and which of all of them are landmarks."""

    rows: list[NDArray[np.intp]]
    landmarks: NDArray[np.intp]


def _draw(sizes: Sequence[int], max_landmarks: int, seed: int) -> _Drawn:
    kept = even_share([min(n, _SLIDE_ROWS) for n in sizes], _MAX_ROWS)
    chosen = even_share(kept, max_landmarks)
    rows, landmarks, first = [], [], 0
    for number, (n, keep, few) in enumerate(zip(sizes, kept, chosen, strict=True)):
        rng = numpy_generator_for(seed, 30, number)
        rows.append(np.sort(rng.permutation(n)[:keep]))
        landmarks.append(first + np.sort(rng.permutation(keep)[:few]))
        first += keep
    return _Drawn(rows, np.concatenate(landmarks))


def _linear_maps(
    slides: Sequence[Expression],
    coordinates: Sequence[np.ndarray],
    settings: StartSettings,
    d_out: int,
    seed: int,
) -> np.ndarray:
    """(2, G, r) float32: spatial PCA of all genes alike, and of weighted genes."""
    found = []
    for weights in (np.ones(len(slides[0].mean)), gene_weights(slides, coordinates)):
        weighted = [s.weighted(weights) for s in slides]
        directions = linear_start(weighted, coordinates, settings, d_out, seed).numpy()
        found.append(directions * weights[:, None].astype(np.float32))
    width = max(w.shape[1] for w in found)
    return np.stack([np.pad(w, ((0, 0), (0, width - w.shape[1]))) for w in found])


def _mean_square_distance(z: Array) -> float:
    """Mean of |z_i - z_j|^2 over all pairs (i, j)."""
    found = 2 * float(z.var(axis=0).sum())
    if not found > 0:
        raise UserError("the training slides' expression is constant")
    return found


def _turned(ridge: Ridge, blocks: Sequence[Array], d_out: int) -> Array:
    """(n, d_out) the block matrix T turned to the leading singular vectors of its predictions."""
    ends = np.cumsum([len(b) for b in blocks])
    columns = np.cumsum([b.shape[1] for b in blocks])
    whole = np.zeros((ends[-1], columns[-1]))
    for block, end, column in zip(blocks, ends, columns, strict=True):
        whole[end - len(block) : end, column - block.shape[1] : column] = block
    predicted = ridge.predictions(whole)
    gram = predicted.T @ predicted
    count = min(d_out, len(gram))
    vectors = scipy.linalg.eigh(gram, subset_by_index=(len(gram) - count, len(gram) - 1))[1]
    turned = whole @ vectors[:, ::-1]
    largest = np.abs(turned).argmax(axis=0)  # a sign that the order of rows does not change
    turned *= np.where(turned[largest, np.arange(count)] < 0, -1.0, 1.0)
    return np.pad(turned, ((0, 0), (0, d_out - count)))
