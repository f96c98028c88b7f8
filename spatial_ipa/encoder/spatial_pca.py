"""Linear features of expression whose values neighbours on the tissue share.

Let Z be the leading ``rank`` principal components of the training slides (centred per slide), G
their covariance, and C the symmetrised covariance of a spot with the mean of its K spatial
neighbours, both averaged over slides.  The generalised eigenproblem

    C w = lambda (G + ridge tr(G)/r I) w,      w' (G + ridge tr(G)/r I) w = 1,

orders directions by spatial autocorrelation lambda: counting noise and cell states that neighbours
do not share drop out of C.  Component a is scaled by its lambda_a (those with lambda <= 0 are
dropped), so Euclidean distance listens to what predicts position.  This is the spatial PCA of
Jombart et al., Heredity 101:92 (2008), in generalised, ridge-regularised form, pooled over slides.
It uses neighbourhoods only and does not change if a slide is moved, turned or mirrored.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.linalg
from sklearn.neighbors import NearestNeighbors
from sklearn.utils.extmath import randomized_svd

from common.errors import UserError
from spatial_ipa.data.expression import Expression

_EXACT = 4000  # rows or genes up to which the eigenproblem is solved exactly: some seconds


def principal_components(
    slides: Sequence[Expression], rank: int, seed: int, max_rows: int = 20_000
) -> np.ndarray:
    """(G, r) orthonormal leading components of all slides, r = min(rank, rows - 1, G).

    Args:
        slides: each centred on its own mean.
        rank: components wanted.
        seed: of the randomised SVD and of the rows drawn.
        max_rows: rows used, drawn evenly from all slides where there are more.

    Raises:
        ValueError: if rank is not positive or there is no slide.
    """
    if not slides or rank < 1:
        raise UserError(f"need slides and a positive rank, got {len(slides)} slides, rank {rank}")
    rng = np.random.default_rng(seed)
    share = max_rows / max(sum(len(s) for s in slides), max_rows)
    drawn = [
        np.sort(rng.choice(n, int(np.ceil(share * n)), replace=False)) for n in map(len, slides)
    ]
    rows = np.empty((sum(map(len, drawn)), len(slides[0].mean)), dtype=np.float32)
    ends = np.cumsum([len(some) for some in drawn])
    for slide, some, end in zip(slides, drawn, ends, strict=True):  # one at a time: it may be large
        rows[end - len(some) : end] = slide.rows(some)
    rank = min(rank, rows.shape[0] - 1, rows.shape[1])
    if min(rows.shape) > _EXACT:
        # Trailing components matter here; the default number of oversamples blurs them.
        found = randomized_svd(rows, rank, n_oversamples=rank, n_iter=6, random_state=seed)[2].T
    elif rows.shape[0] < rows.shape[1]:
        left = _leading_vectors(rows @ rows.T, rank)
        found = rows.T @ left
        found /= np.linalg.norm(found, axis=0)
    else:
        found = _leading_vectors(rows.T @ rows, rank)
    return np.ascontiguousarray(found * np.sign(found.sum(axis=0) + 1e-30), dtype=np.float32)


def _leading_vectors(gram: np.ndarray, rank: int) -> np.ndarray:
    """(n, rank) eigenvectors of the largest eigenvalues, descending."""
    n = len(gram)
    vectors: np.ndarray = scipy.linalg.eigh(
        gram.astype(np.float64), subset_by_index=(n - rank, n - 1)
    )[1]
    return vectors[:, ::-1].astype(np.float32)


def spatial_components(
    slides: Sequence[Expression],
    coordinates: Sequence[np.ndarray],
    components: np.ndarray,
    *,
    num_components: int = 128,
    num_neighbours: int = 40,
    ridge: float = 0.3,
) -> tuple[np.ndarray, np.ndarray]:
    """Directions in gene space, scaled by spatial autocorrelation.

    Args:
        slides: training slides.
        coordinates: (n_s, 2) of each, in its own unit and pose.
        components: (G, r) basis in which the directions are sought.
        num_components: most directions returned.
        num_neighbours: K, at most half the spots of a slide.
        ridge: shrinkage of G towards the identity, in units of its mean eigenvalue.

    Returns:
        (G, m) float32 directions w_a lambda_a, and (m,) lambda, descending and positive.

    Raises:
        ValueError: if lists disagree in length, ridge is not positive, or no direction has
            positive autocorrelation.
    """
    if len(slides) != len(coordinates) or not slides:
        raise UserError(f"got {len(slides)} slides and {len(coordinates)} sets of coordinates")
    if not ridge > 0 or num_neighbours < 1:
        raise UserError(
            f"ridge and num_neighbours must be positive, got {ridge} and {num_neighbours}"
        )
    rank = components.shape[1]
    own, shared = np.zeros((rank, rank)), np.zeros((rank, rank))
    for slide, xy in zip(slides, coordinates, strict=True):
        z = slide.project(components)  # (n, r)
        k = min(num_neighbours, max(1, len(z) // 2))
        # A sparse product: the neighbours' rows side by side would be n x k x r numbers.
        neighbours = NearestNeighbors(n_neighbors=k).fit(xy).kneighbors_graph()
        cross = z.T @ (neighbours @ z / k) / len(z)
        own += z.T @ z / len(z) / len(slides)
        shared += (cross + cross.T) / 2 / len(slides)
    shrunk = own + ridge * np.trace(own) / rank * np.eye(rank)
    eigenvalues, vectors = scipy.linalg.eigh(shared, shrunk)
    order = np.argsort(-eigenvalues)[:num_components]
    order = order[eigenvalues[order] > 0]
    if not order.size:
        raise UserError(
            "no direction of expression is shared by spatial neighbours: coordinates and rows of "
            "the training slides do not seem to belong together"
        )
    found = eigenvalues[order]
    return (components @ (vectors[:, order] * found)).astype(np.float32), found
