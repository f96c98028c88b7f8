"""Coordinates of many cells as one graph.

One kNN candidate graph over all cells, one layout per draw of the start noise.  Where cells are
many the graph is built on them in an order that keeps neighbours close in memory
(:mod:`common.graph.order`), which changes the time but, to rounding, not the layout.
"""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm import tqdm

from common.graph.knn import knn_edges
from common.graph.order import inverse_order, locality_order
from common.rng import generator_for
from spatial_ipa.layout.placement import SHOW_AFTER, PlaceGraph, Placement, consensus, noisy

# Cells from which memory order repays its sort: what attention reads no longer fits the
# second-level cache (benchmarks/kernels/cpu.py).
_ORDER_FROM = 20_000


@torch.no_grad()
def place_whole(
    place: PlaceGraph,
    h: Tensor,
    num_candidates: int,
    num_draws: int,
    seed: int,
    noise_h: float,
) -> Placement:
    """Place all cells as one graph, ``num_draws`` times.

    Args:
        place: the model.
        h: (n, d) embeddings.
        num_candidates: k of the candidate graph, that of the clean embeddings.
        num_draws: layouts.
        seed: of the noise.
        noise_h: standard deviation of the noise on the embeddings.
    """
    n = h.shape[0]
    order = locality_order(h) if n >= _ORDER_FROM else torch.arange(n, device=h.device)
    back = inverse_order(order)
    edges = knn_edges(h[order], num_candidates)
    graph = torch.zeros(n, dtype=torch.int64, device=h.device)
    layouts = []
    for draw in tqdm(range(num_draws), "placing", unit="draw", delay=SHOW_AFTER, leave=False):
        generator = generator_for(seed, draw)
        start = torch.randn(n, 2, generator=generator).to(h)
        rows = noisy(h, noise_h, generator)
        layouts.append(place(rows[order], order, edges, graph, 1, start[order])[back])
    return consensus(torch.stack(layouts))
