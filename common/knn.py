"""k-nearest-neighbour graphs as :class:`~common.edges.EdgeList`, batched by graph.

Row i of the result holds the k nodes of its own graph nearest to node i, never i itself, by float32
distances and without approximation.  Equal distances are broken by node index: each candidate
becomes one 64-bit key, the bits of its float32 squared distance (which sort like the number, as it
is not negative) above its node index.  Up to four dimensions distances are sums of squared
differences, and the graph is the same on every device.  Above, they come from a matrix product,
whose rounding depends on device, library and block shape: nodes whose distances differ by rounding
only may swap there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.edges import EdgeList

# Numbers of distances held at once.  2**24 keys are 128 MB, and larger blocks were not faster.
_BLOCK_ELEMENTS = 2**22
# Rows of a block, also where all columns of so many rows would exceed it: they then come in chunks.
_MIN_ROWS = 256
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
    with torch.autocast(x.device.type, enabled=False):  # half-precision products would break keys
        return _nearest(x.detach().float(), k, graph_ptr)


def _nearest(x: Tensor, k: int, graph_ptr: Tensor | None) -> tuple[Tensor, Tensor]:
    """:func:`knn_index` of checked float32 input."""
    n = x.shape[0]
    if graph_ptr is None:
        graph_ptr = torch.tensor([0, n], device=x.device)
    graph = torch.repeat_interleave(graph_ptr[1:] - graph_ptr[:-1])  # (N,)
    starts, ends = graph_ptr[:-1].tolist(), graph_ptr[1:].tolist()
    graph_of = graph.tolist() if len(starts) > 1 else None
    norms = x.square().sum(1)
    index = torch.zeros(n, k, dtype=torch.int64, device=x.device)
    valid = torch.zeros(n, k, dtype=torch.bool, device=x.device)
    row = 0
    while row < n:
        # Rows of one block see the columns from the start of their first graph to the end of
        # their last, so small graphs share a block and a large one is split.
        left = starts[graph_of[row]] if graph_of else 0
        right = ends[graph_of[row]] if graph_of else n
        stop = min(right, row + max(_MIN_ROWS, _BLOCK_ELEMENTS // (right - left)))
        while graph_of and stop == right < n and right < row + 2048:
            nxt = ends[graph_of[right]]
            if (nxt - row) * (nxt - left) > _BLOCK_ELEMENTS:
                break
            stop = right = nxt
        several = graph_of is not None and graph_of[row] != graph_of[right - 1]
        best = torch.empty(stop - row, 0, dtype=torch.int64, device=x.device)
        chunk = max(1, _BLOCK_ELEMENTS // (stop - row))
        for first in range(left, right, chunk):
            end = min(right, first + chunk)
            keys = _distance_keys(x, norms, (row, stop), (first, end))
            low = max(row, first)
            own = torch.arange(low, max(low, min(stop, end)), device=x.device)
            keys[own - row, own - first] = _FAR
            if several:
                keys.masked_fill_(graph[row:stop, None] != graph[None, first:end], _FAR)
            keys = keys.topk(min(k, end - first), dim=1, largest=False).values
            # Keys are unique, so the best of the chunks' best are the best of all.
            best = torch.cat([best, keys], dim=1)
            if first > left:
                best = best.topk(min(k, best.shape[1]), dim=1, largest=False).values
        width = best.shape[1]
        valid[row:stop, :width] = best != _FAR
        index[row:stop, :width] = best & 0xFFFFFFFF
        row = stop
    return index, valid


def _distance_keys(
    x: Tensor, norms: Tensor, rows: tuple[int, int], columns: tuple[int, int]
) -> Tensor:
    """(R, M) int64 keys that sort by (squared distance, node index); ``norms`` (N,) are |x|^2."""
    (row, stop), (first, end) = rows, columns
    a, b = x[row:stop], x[first:end]
    if x.shape[1] <= _DIFFERENCE_WIDTH:
        d2 = x.new_zeros(stop - row, end - first)
        for c in range(x.shape[1]):
            d2 += (a[:, c, None] - b[None, :, c]).square_()
    else:
        d2 = torch.addmm(norms[first:end], a, b.T, alpha=-2)
        d2 += norms[row:stop, None]
        d2.clamp_(min=0)  # rounding of the expansion only
    keys = d2.view(torch.int32).long() << 32
    keys |= torch.arange(first, end, device=x.device)
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
