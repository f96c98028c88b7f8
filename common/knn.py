"""k-nearest-neighbour graphs as :class:`~common.edges.EdgeList`, batched by graph.

Row i of the result holds the k nodes of its own graph nearest to node i, never i itself.  Distances
are exact.  Equal distances are broken by node index, so the graph is the same on every run, thread
count and device: each candidate becomes one 64-bit key, the bits of its float32 squared distance
(which sort like the number, as it is not negative) above its node index.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.edges import EdgeList

# Numbers of distances held at once.  2**24 keys are 128 MB, and larger blocks were not faster.
_BLOCK_ELEMENTS = 2**22
# Above this width distances come from a matrix product; below, from differences, which are exact
# for tied grid points where |a|^2 + |b|^2 - 2ab is not.
_DIFFERENCE_WIDTH = 4
_FAR = torch.iinfo(torch.int64).max


def knn_edges(x: Tensor, k: int, graph_ptr: Tensor | None = None) -> EdgeList:
    """Connect every node to its k nearest neighbours, which become its in-edges.

    Args:
        x: (N, D) float, positions or embeddings; float64 is compared in float32.
        k: neighbours per node; a graph of n <= k nodes gives n - 1 each.
        graph_ptr: (B + 1,) int64, nodes ``graph_ptr[b]:graph_ptr[b + 1]`` form graph b.  One graph
            when left out.

    Returns:
        Edges from neighbour (source) to node (destination).

    Raises:
        ValueError: if ``x`` is not a finite (N, D) matrix, ``k`` is not positive, or ``graph_ptr``
            does not run from 0 to N.
    """
    index, valid = knn_index(x, k, graph_ptr)
    index = torch.where(valid, index, _FAR).sort(dim=1).values  # (N, k), sources ascending
    valid = index != _FAR
    degree = valid.sum(1)
    ptr = torch.cat([degree.new_zeros(1), degree.cumsum(0)])
    dst = torch.repeat_interleave(torch.arange(x.shape[0], device=x.device), degree)
    return EdgeList(index[valid], dst, ptr)


def knn_index(x: Tensor, k: int, graph_ptr: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """As :func:`knn_edges`, as a table ordered by distance.

    Returns:
        index: (N, k) int64, nearest first; arbitrary where not valid.
        valid: (N, k) bool, false past the end of a graph of n <= k nodes.
    """
    _check(x, k, graph_ptr)
    n = x.shape[0]
    x = x.detach().float()
    if graph_ptr is None:
        graph_ptr = torch.tensor([0, n], device=x.device)
    graph = torch.repeat_interleave(graph_ptr[1:] - graph_ptr[:-1])  # (N,)
    starts, ends = graph_ptr[:-1].tolist(), graph_ptr[1:].tolist()
    graph_of = graph.tolist() if len(starts) > 1 else None
    index = torch.zeros(n, k, dtype=torch.int64, device=x.device)
    valid = torch.zeros(n, k, dtype=torch.bool, device=x.device)
    row = 0
    while row < n:
        # Rows of one block see the columns from the start of their first graph to the end of
        # their last, so small graphs share a block and a large one is split.
        left = starts[graph_of[row]] if graph_of else 0
        right = ends[graph_of[row]] if graph_of else n
        stop = min(right, row + max(1, _BLOCK_ELEMENTS // (right - left)))
        while graph_of and stop == right < n and right < row + 2048:
            nxt = ends[graph_of[right]]
            if (nxt - row) * (nxt - left) > _BLOCK_ELEMENTS:
                break
            stop = right = nxt
        keys = _distance_keys(x[row:stop], x[left:right], left)
        rows = torch.arange(row, stop, device=x.device)
        keys[rows - row, rows - left] = _FAR
        if graph_of and graph_of[row] != graph_of[right - 1]:
            keys.masked_fill_(graph[row:stop, None] != graph[None, left:right], _FAR)
        best = keys.topk(min(k, right - left), dim=1, largest=False).values
        width = best.shape[1]
        valid[row:stop, :width] = best != _FAR
        index[row:stop, :width] = best & 0xFFFFFFFF
        row = stop
    return index, valid


def _distance_keys(rows: Tensor, columns: Tensor, offset: int) -> Tensor:
    """(R, M) int64 keys that sort by (squared distance, node index)."""
    if rows.shape[1] <= _DIFFERENCE_WIDTH:
        d2 = rows.new_zeros(rows.shape[0], columns.shape[0])
        for c in range(rows.shape[1]):
            d2 += (rows[:, c, None] - columns[None, :, c]).square_()
    else:
        d2 = torch.addmm(columns.square().sum(1), rows, columns.T, alpha=-2)
        d2 += rows.square().sum(1, keepdim=True)
        d2.clamp_(min=0)  # rounding of the expansion only
    keys = d2.view(torch.int32).long() << 32
    keys |= torch.arange(offset, offset + columns.shape[0], device=rows.device)
    return keys


def _check(x: Tensor, k: int, graph_ptr: Tensor | None) -> None:
    if x.dim() != 2 or not x.is_floating_point():
        raise ValueError(f"x must be a float (N, D) matrix, got {tuple(x.shape)} {x.dtype}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x).all(1)).sum())
        raise ValueError(f"x must be finite; {bad} of {x.shape[0]} rows hold NaN or infinity")
    if graph_ptr is not None:
        steps = graph_ptr[1:] - graph_ptr[:-1]
        if int(graph_ptr[0]) != 0 or int(graph_ptr[-1]) != x.shape[0] or bool((steps < 0).any()):
            raise ValueError(
                f"graph_ptr must rise from 0 to {x.shape[0]}, got {graph_ptr.tolist()}"
            )
