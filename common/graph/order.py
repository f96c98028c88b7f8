"""Node orders in which neighbours lie close together in memory.

Attention over a graph reads the features of every node's neighbours.  Where these have nearby
indices, they are in the cache already; after kNN construction they are wherever the data put them.
:func:`locality_order` knows positions.  Its order is that of the leaves of a balanced binary tree
over the nodes, by recursive bisection: every cell is split at the median of the projection onto its
leading principal direction, all cells of a level at once.  The direction of a cell comes from power
iterations of the covariance of at most 32 of its nodes, evenly taken, so a level costs one
projection of each node and one sort.

    order = locality_order(x)
    edges, x = permute_edges(edges, order), x[order]
    out = model(x, edges)[inverse_order(order)]

:func:`graph_order` knows the edges alone: nodes in order of their distance, in edges, from one at
the rim of the graph.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.graph.edges import EdgeList

_SAMPLE = 32
_POWER_STEPS = 3
_ROWS = 2**13  # held at once, so that they stay in the cache


def locality_order(x: Tensor, leaf: int = 16) -> Tensor:
    """A permutation of nodes that keeps near ones together.

    Args:
        x: (N, D) float, positions or embeddings.
        leaf: cells of at most so many nodes are not split further.

    Returns:
        (N,) int64, the node at each new place: ``x[order]`` is the reordered matrix.  It depends on
        ``x`` alone; nodes that coincide stay in order of index.

    Raises:
        ValueError: if ``x`` is not a finite (N, D) matrix or ``leaf`` is not positive.
    """
    if x.dim() != 2 or not x.is_floating_point():
        raise UserError(f"x must be a float (N, D) matrix, got {tuple(x.shape)} {x.dtype}")
    if leaf < 1:
        raise UserError(f"leaf must be at least 1, got {leaf}")
    if not bool(torch.isfinite(x).all()):
        raise UserError("x must be finite; remove the nodes that hold NaN or infinity")
    n = x.shape[0]
    order = torch.arange(n, device=x.device)
    if x.shape[1] == 0:
        return order
    with torch.autocast(x.device.type, enabled=False):
        sorted_x = x.detach().float()  # rows in the order reached so far
        cells = 1
        while -(-n // cells) > leaf:
            step = _sort_in_cells(sorted_x, cells)
            order = order[step]
            sorted_x = sorted_x.index_select(0, step)
            cells *= 2
    return order


def graph_order(edges: EdgeList) -> Tensor:
    """A permutation of nodes that keeps the ends of edges together: reverse Cuthill-McKee.

    Cuthill and McKee, "Reducing the bandwidth of sparse symmetric matrices", ACM 1969, by SciPy, on
    the graph without directions.

    Args:
        edges: of N nodes, on the CPU.

    Returns:
        (N,) int64, the node at each new place.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    if edges.num_edges == 0:  # SciPy takes the maximum of its degrees
        return torch.arange(edges.num_nodes, device=edges.ptr.device)
    shape = (edges.num_nodes, edges.num_nodes)
    ones = np.ones(edges.num_edges, dtype=np.int32)  # sums of edges given twice must not be 0
    matrix = csr_matrix((ones, edges.src.numpy(), edges.ptr.numpy()), shape)
    return torch.from_numpy(reverse_cuthill_mckee(matrix).astype(np.int64))


def mean_log_gap(src: Tensor, dst: Tensor) -> float:
    """How far apart the ends of edges lie: the mean of log2(1 + |src - dst|).

    Args:
        src: (E,) integer, E at least 1.
        dst: (E,) integer.
    """
    return float((src - dst).abs().double().log1p().mean()) / math.log(2)


def inverse_order(order: Tensor) -> Tensor:
    """(N,) int64, the new place of each node: ``x[order][inverse_order(order)]`` is ``x``.

    Raises:
        ValueError: if ``order`` is not a permutation of 0 to N − 1.
    """
    n = order.numel()
    if order.dim() != 1 or order.is_floating_point() or order.dtype == torch.bool:
        raise UserError(f"order must be (N,) integers, got {tuple(order.shape)} {order.dtype}")
    inside = bool(((order >= 0) & (order < n)).all())
    if not inside or (n and int(torch.bincount(order, minlength=n).max()) > 1):
        raise UserError(f"order must hold every node from 0 to {n - 1} once")
    place = torch.empty(n, dtype=torch.int64, device=order.device)
    place[order.long()] = torch.arange(n, device=order.device)
    return place


def permute_edges(edges: EdgeList, order: Tensor) -> EdgeList:
    """The same graph over nodes in another order, sorted again.

    Args:
        edges: graph of N nodes.
        order: (N,) int64, the old node at each new place.

    Returns:
        Edges between new places; ``permute_edges(result, inverse_order(order))`` has the content
        of ``edges``.

    Raises:
        ValueError: if ``order`` is not a permutation of the nodes.
    """
    if order.numel() != edges.num_nodes:
        raise UserError(
            f"order must hold the {edges.num_nodes} nodes of edges, got {order.numel()} numbers"
        )
    place = inverse_order(order)
    edge_index = torch.stack([place[edges.src], place[edges.dst]])
    return EdgeList.from_edge_index(edge_index, edges.num_nodes)


def _sort_in_cells(x: Tensor, cells: int) -> Tensor:
    """(n,) permutation that sorts every cell along its direction; cell c is cn/C to (c + 1)n/C.

    The cells of the next level are the halves of these, so the split is at the median.
    """
    n = x.shape[0]
    bounds = torch.arange(cells + 1, device=x.device) * n // cells
    cell = torch.repeat_interleave(bounds[1:] - bounds[:-1])  # (n,)
    direction = _directions(x, bounds)
    along = torch.empty(n, device=x.device)
    for start in range(0, n, _ROWS):
        some = slice(start, start + _ROWS)
        along[some] = (direction.index_select(0, cell[some]).mul_(x[some])).sum(1)
    # Two stable sorts, the second by cell; ties stay in the order they had.
    first = torch.argsort(along, stable=True)
    return first[torch.argsort(cell[first], stable=True)]


def _directions(x: Tensor, bounds: Tensor) -> Tensor:
    """(C, D) unit vectors; zero where all sampled nodes of a cell coincide."""
    starts, sizes = bounds[:-1], bounds[1:] - bounds[:-1]
    tiny = torch.finfo(x.dtype).tiny
    result = torch.empty(starts.numel(), x.shape[1], device=x.device)
    cells_at_once = max(1, _ROWS // _SAMPLE)
    for first in range(0, starts.numel(), cells_at_once):
        some = slice(first, first + cells_at_once)
        taken = min(_SAMPLE, int(sizes[some].min()))
        offset = torch.arange(taken, device=x.device) * sizes[some, None] // taken
        rows = (starts[some, None] + offset).flatten()
        sample = x.index_select(0, rows).view(-1, taken, x.shape[1])
        sample -= sample.mean(1, keepdim=True)
        # Start at the farthest node: it has a part along the leading direction.
        far = sample.square().sum(2).argmax(1)
        v = sample[torch.arange(len(sample), device=x.device), far][:, :, None]  # (C, D, 1)
        for _ in range(_POWER_STEPS):
            v = v / v.norm(dim=1, keepdim=True).clamp(min=tiny)
            v = sample.mT @ (sample @ v)
        v = (v / v.norm(dim=1, keepdim=True).clamp(min=tiny))[:, :, 0]
        # The sign is free: the largest entry is made positive.
        largest = v.gather(1, v.abs().argmax(1, keepdim=True))
        result[some] = torch.where(largest < 0, -v, v)
    return result
