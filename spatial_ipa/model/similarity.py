"""What tells neighbours apart among candidates: features of edges, from embeddings and positions.

H_i . H_j of kernel eigenmaps estimates the neighbour kernel of two cells up to the lengths of the
rows (:mod:`spatial_ipa.encoder.eigenmaps`), so the cosine is the first feature.  How much it means
depends on both cells: in a crowd of alike cells a high cosine is nothing special.  It is therefore
also given in standard deviations from its mean over the in-edges of either end.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.graph.edges import EdgeList
from common.sparse import edge_dot
from spatial_ipa.geometry.gauge import graph_mean
from spatial_ipa.geometry.walks import squared_distance

SIMILARITIES = 4
"""Number of features of :func:`similarity_features`."""

DISTANCES = 5
"""Number of features of :func:`distance_features`."""

_FLOOR = 1e-6


@torch.no_grad()
def cosines(h: Tensor, edges: EdgeList) -> Tensor:
    """(E,) cosine of h_i and h_j of each edge (j, i); no gradient passes to ``h`` (N, d)."""
    unit = torch.nn.functional.normalize(h, dim=1)[:, None]
    return edge_dot(unit, unit, edges)[:, 0]


@torch.no_grad()
def similarity_features(h: Tensor, edges: EdgeList) -> Tensor:
    """(E, 4) of the edge (j, i): cosine c of h_i and h_j, its score z_i = (c - mean) / sd among the
    in-edges of i, the score of the same c among those of j, and c z_i.

    Args:
        h: (N, d) embeddings; no gradient passes to them.
        edges: candidates.  A cell without in-edges scores 0, as does one with a single one.
    """
    cosine = cosines(h, edges)
    n = edges.num_nodes
    mean = graph_mean(cosine, edges.dst, n)
    spread = graph_mean((cosine - mean[edges.dst]).square(), edges.dst, n).sqrt()
    lone = spread <= _FLOOR

    def score(cell: Tensor) -> Tensor:
        value = (cosine - mean[cell]) / spread[cell].clamp_min(_FLOOR)
        return torch.where(lone[cell], 0.0, value)

    own = score(edges.dst)
    return torch.stack([cosine, own, score(edges.src), cosine * own], dim=1)


@torch.no_grad()
def distance_features(x: Tensor, edges: EdgeList) -> Tensor:
    """(E, 5) of the edge (j, i): with d = |x_i - x_j|, the values d, d^2, d^2 over its mean among
    the in-edges of i, exp(-10 d^2) and exp(-2 d^2).

    Args:
        x: (N, 2) positions in RMS radii of the tissue; no gradient passes to them.
        edges: candidates.
    """
    square = squared_distance(x, edges.dst, edges.src)
    mean = graph_mean(square, edges.dst, edges.num_nodes)[edges.dst].clamp_min(_FLOOR)
    return torch.stack(
        [square.sqrt(), square, square / mean, (-10 * square).exp(), (-2 * square).exp()], dim=1
    )
