"""Graphs on known coordinates: adaptive sizes, spatial kNN, rings and landmarks.

For a miniset or slide of n nodes

    k          = max(20, int(0.15 n)), at most n - 1
    steps      = 3 if n <= 160, 4 if n <= 300, 5 otherwise
    landmarks  = max(8, n // 16), at most n
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.errors import UserError
from common.graph.edges import EdgeList
from common.graph.knn import knn_index


def adaptive_k(n: int) -> int:
    """Neighbours of the target graph of n nodes."""
    return min(max(20, int(0.15 * n)), n - 1)


def walk_steps(n: int) -> int:
    """Number of random-walk powers compared at n nodes."""
    return 3 if n <= 160 else 4 if n <= 300 else 5


def num_landmarks(n: int) -> int:
    return min(max(8, n // 16), n)


def spatial_graph(xy: Tensor, k: int) -> tuple[EdgeList, Tensor]:
    """The symmetrised kNN graph of coordinates, without self-loops.

    Args:
        xy: (n, 2) coordinates.
        k: neighbours per node before symmetrisation.

    Returns:
        edges: (i, j) and (j, i) are present if either is among the k nearest of the other.
        scale: (n,) distance to the k-th neighbour, the local scale s_i of the kernel.

    Raises:
        ValueError: if k is not below n, or a node coincides with its k nearest (scale 0).
    """
    n = xy.shape[0]
    if not 1 <= k < n:
        raise UserError(f"k must lie in [1, {n - 1}] for {n} nodes, got {k}")
    index, _ = knn_index(xy, k)  # (n, k)
    scale = (xy - xy[index[:, -1]]).norm(dim=1)
    if bool((scale == 0).any()):
        raise UserError(
            f"{int((scale == 0).sum())} of {n} points coincide with their {k} nearest neighbours; "
            "remove duplicated coordinates"
        )
    dst = torch.arange(n, device=xy.device).repeat_interleave(k)
    src = index.reshape(-1)
    key = torch.unique(torch.cat([dst * n + src, src * n + dst]))
    return EdgeList.from_edge_index(torch.stack([key % n, key // n]), n), scale


def ring_edges(xy: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """(2, n * (k // 2)) pairs: per node k // 2 random nodes whose distance rank lies in (k, 4k]."""
    n = xy.shape[0]
    outer = min(4 * k, n - 1)
    count = min(k // 2, outer - k)
    if count < 1:
        return torch.empty(2, 0, dtype=torch.int64, device=xy.device)
    ranked, _ = knn_index(xy, outer)
    ring = ranked[:, k:]  # (n, outer - k)
    order = torch.rand(ring.shape, generator=generator).to(xy.device).argsort(1)[:, :count]
    chosen = ring.gather(1, order)
    node = torch.arange(n, device=xy.device)
    return torch.stack([node.repeat_interleave(count), chosen.reshape(-1)])


def farthest_points(xy: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count,) node indices by farthest-point sampling from a random start (Gonzalez 1985)."""
    first = int(torch.randint(xy.shape[0], (1,), generator=generator))
    chosen = [first]
    distance = (xy - xy[first]).square().sum(1)
    for _ in range(count - 1):
        nxt = int(distance.argmax())
        chosen.append(nxt)
        distance = torch.minimum(distance, (xy - xy[nxt]).square().sum(1))
    return torch.tensor(chosen, device=xy.device)


def multiscale_pairs(xy: Tensor, edges: EdgeList, k: int, generator: torch.Generator) -> Tensor:
    """The pairs of the stress: kNN edges, ring edges, and every node to every landmark.

    Returns:
        (2, P) int64, unordered pairs i < j, each once, none of them coincident.
    """
    n = xy.shape[0]
    node = torch.arange(n, device=xy.device)
    landmarks = farthest_points(xy, num_landmarks(n), generator)
    pairs = torch.cat(
        [
            edges.edge_index,
            ring_edges(xy, k, generator),
            torch.stack([node.repeat(len(landmarks)), landmarks.repeat_interleave(n)]),
        ],
        dim=1,
    )
    low, high = pairs.min(0).values, pairs.max(0).values
    key = torch.unique(low * n + high)
    low, high = key // n, key % n
    keep = (low != high) & ((xy[low] - xy[high]).square().sum(1) > 0)
    return torch.stack([low[keep], high[keep]])
