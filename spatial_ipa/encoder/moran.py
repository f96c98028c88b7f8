"""How far neighbours on the tissue share the expression of each gene.

For z centred per slide and m_i the mean of z over the K nearest spots of i, Moran's index of a gene
is I_g = sum_i z_ig m_ig / sum_i z_ig^2 (Moran, Biometrika 37:17, 1950), here averaged over slides.
Counting noise has I = 0, so genes are weighted by sqrt(max(I, 0)).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.neighbors import NearestNeighbors

from spatial_ipa.data.expression import Expression

_BLOCK = 1024  # spots made dense at once


def moran_index(slide: Expression, xy: np.ndarray, num_neighbours: int = 20) -> np.ndarray:
    """(G,) float64 index of every gene on one slide; 0 for genes that do not vary.

    Args:
        slide: n spots.
        xy: (n, 2) their coordinates.
        num_neighbours: K, at most half of the spots.
    """
    slide = slide.loaded()
    k = min(num_neighbours, max(1, len(slide) // 2))
    graph = NearestNeighbors(n_neighbors=k).fit(xy).kneighbors_graph()
    own, shared = np.zeros(len(slide.mean)), np.zeros(len(slide.mean))
    for start in range(0, len(slide), _BLOCK):
        rows = slice(start, start + _BLOCK)
        z = slide.rows(rows)
        # The neighbours' mean, of which those without counts are the slide's mean, z = 0.
        weights = graph[rows].multiply(slide.filled[None, :] / k).tocsr()
        means = (weights @ slide.values).toarray()
        means -= np.asarray(weights.sum(axis=1)) * slide.mean
        own += np.square(z, dtype=np.float64).sum(axis=0)
        shared += np.einsum("ng,ng->g", z, means, dtype=np.float64)
    return np.divide(shared, own, out=np.zeros_like(own), where=own > 0)


def gene_weights(
    slides: Sequence[Expression], coordinates: Sequence[np.ndarray], num_neighbours: int = 20
) -> np.ndarray:
    """(G,) float64 sqrt(max(I, 0)), I the mean of :func:`moran_index` over slides."""
    found = [
        moran_index(slide, xy, num_neighbours)
        for slide, xy in zip(slides, coordinates, strict=True)
    ]
    weights: np.ndarray = np.sqrt(np.maximum(np.mean(found, axis=0), 0.0))
    return weights
