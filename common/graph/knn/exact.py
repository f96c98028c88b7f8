"""Exact nearest neighbours by comparing every pair of nodes of a graph, in blocks.

Each candidate j of row i becomes one 64-bit key, the bits of its float32 squared distance (which
sort like the number, as it is not negative) above its node index, so that the smallest keys are the
nearest nodes and equal distances are broken by index.  Up to four dimensions a distance is the sum
of squared differences, column by column, and the same on every device.  Above, it is

    |a|² + |b|² − 2 a·b

from a matrix product, whose rounding depends on device, library and block shape.

On a CPU the product is cheaper than sorting its result.  The columns of a large graph are therefore
visited in a fixed random order: any prefix of it is a fair sample, so the k-th best of the columns
seen so far rejects nearly all later ones with one comparison, and only the few that pass become
keys.  Expected survivors are k log(n / first chunk) per row, whatever the order of the nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Above this width distances come from a matrix product; below, from differences, which are exact
# for tied grid points where |a|^2 + |b|^2 - 2ab is not.
DIFFERENCE_WIDTH = 4
FAR = torch.iinfo(torch.int64).max
# Distances held at once: with their keys 12 MB, which an allocator reuses and a cache may hold.
_BLOCK_ELEMENTS = 2**20
# Rows of a block, also where all columns of so many rows would exceed it: they then come in chunks.
_MIN_ROWS = 512
# Columns that are ranked before the comparison starts; smaller graphs are ranked whole.
_FIRST_COLUMNS = 2048


@dataclass(frozen=True)
class _Columns:
    """Candidates: nodes ``left`` to ``left + M`` of the union, in any order."""

    left: int
    ids: Tensor  # (M,) int64 node of each column
    where: Tensor  # (M,) int64 column of node left + i
    x: Tensor  # (M, D)
    norms: Tensor  # (M,) squared

    def __len__(self) -> int:
        return self.ids.numel()


def nearest(x: Tensor, k: int, graph_ptr: Tensor) -> tuple[Tensor, Tensor]:
    """k nearest nodes of the same graph, without the node itself.

    Args:
        x: (N, D) float32, finite.
        k: neighbours per node.
        graph_ptr: (B + 1,) int64, rising from 0 to N.

    Returns:
        index (N, k) int64, nearest first, and valid (N, k) bool.
    """
    n = x.shape[0]
    index = torch.zeros(n, k, dtype=torch.int64, device=x.device)
    valid = torch.zeros(n, k, dtype=torch.bool, device=x.device)
    graph = torch.repeat_interleave(graph_ptr[1:] - graph_ptr[:-1])  # (N,)
    bounds = graph_ptr.tolist()
    first = 0
    while first < len(bounds) - 1:
        # Small graphs share a block, in which pairs across graphs are masked.
        last = first + 1
        while last < len(bounds) - 1 and (bounds[last + 1] - bounds[first]) ** 2 <= _BLOCK_ELEMENTS:
            last += 1
        left, right = bounds[first], bounds[last]
        if right > left:
            rows = torch.arange(left, right, device=x.device)
            index[left:right], valid[left:right] = nearest_to_rows(
                x, k, rows, (left, right), graph if last > first + 1 else None
            )
        first = last
    return index, valid


def nearest_to_rows(
    x: Tensor, k: int, rows: Tensor, among: tuple[int, int], graph: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """k nearest of the nodes ``among[0]`` to ``among[1]`` to each of some of them.

    Args:
        x: (N, D) float32, finite.
        k: neighbours per node.
        rows: (R,) int64, nodes inside the range.
        among: first node of the candidates and the one after the last.
        graph: (N,) int64; where given, only nodes of the same graph are neighbours.

    Returns:
        index (R, k) int64, nearest first, and valid (R, k) bool.
    """
    left, right = among
    pruned = x.device.type == "cpu" and graph is None and right - left > _first_columns(k)
    columns = _columns(x, left, right, shuffled=pruned)
    index = torch.zeros(rows.numel(), k, dtype=torch.int64, device=x.device)
    valid = torch.zeros(rows.numel(), k, dtype=torch.bool, device=x.device)
    step = max(_MIN_ROWS, _BLOCK_ELEMENTS // max(1, right - left))
    for start in range(0, rows.numel(), step):
        block = rows[start : start + step]
        best = _best_keys(x, block, columns, k, graph, pruned)
        there = best != FAR
        index[start : start + step, : best.shape[1]] = torch.where(there, node_of(best), 0)
        valid[start : start + step, : best.shape[1]] = there
    return index, valid


def keys_of(d2: Tensor, nodes: Tensor) -> Tensor:
    """int64 keys that sort by (squared distance, node): float32 not negative, int64 < 2³²."""
    return (d2.view(torch.int32).long() << 32) | nodes


def node_of(keys: Tensor) -> Tensor:
    """The node of :func:`keys_of`; no node, but 2³² − 1, where the key is ``FAR``."""
    return keys & 0xFFFFFFFF


def distance_of(keys: Tensor) -> Tensor:
    """The float32 squared distance of :func:`keys_of`; NaN where the key is ``FAR``."""
    return (keys >> 32).int().view(torch.float32)


def _first_columns(k: int) -> int:
    return max(_FIRST_COLUMNS, 4 * k)


def _columns(x: Tensor, left: int, right: int, shuffled: bool) -> _Columns:
    if not shuffled:
        where = torch.arange(right - left, device=x.device)
        part = x[left:right]
        return _Columns(left, where + left, where, part, part.square().sum(1))
    order = torch.randperm(right - left, generator=torch.Generator().manual_seed(0))
    where = torch.empty_like(order)
    where[order] = torch.arange(right - left)
    part = x[order + left]
    return _Columns(left, order + left, where, part, part.square().sum(1))


def _best_keys(
    x: Tensor, rows: Tensor, columns: _Columns, k: int, graph: Tensor | None, pruned: bool
) -> Tensor:
    """(R, at most k) ascending keys of the best columns of each row."""
    a = x[rows]
    own = columns.where[rows - columns.left]  # (R,) the column that is the row itself
    best = torch.empty(rows.numel(), 0, dtype=torch.int64, device=x.device)
    chunk = max(1, _BLOCK_ELEMENTS // rows.numel())
    first = 0
    while first < len(columns):
        end = min(len(columns), first + chunk)
        if pruned and first == 0:
            end = min(end, _first_columns(k))
        d2 = _squared_distances(a, columns.x[first:end], columns.norms[first:end])
        keys = None
        if pruned and best.shape[1] == k and bool((best[:, -1] != FAR).all()):
            keys = _surviving_keys(
                d2, distance_of(best[:, -1]), columns.ids[first:end], own - first
            )
        if keys is None:
            keys = keys_of(d2.clamp_(min=0), columns.ids[first:end])
            here = ((own >= first) & (own < end)).nonzero()[:, 0]
            keys[here, own[here] - first] = FAR
            if graph is not None:
                keys.masked_fill_(graph[rows][:, None] != graph[columns.ids[first:end]], FAR)
        # Keys are unique, so the best of the chunks' best are the best of all.
        best = _smallest(torch.cat([best, keys], dim=1) if first else keys, k)
        first = end
    return best.sort(dim=1).values


def _smallest(keys: Tensor, k: int) -> Tensor:
    """(R, at most k) smallest keys of each row, in any order."""
    if keys.shape[1] <= k:
        return keys
    if keys.device.type != "cpu":
        return keys.topk(k, dim=1, largest=False, sorted=False).values
    # NumPy's vectorised selection takes a tenth of the time of topk on 64-bit integers.
    return torch.from_numpy(np.partition(keys.numpy(), k - 1, axis=1)[:, :k])


def _squared_distances(a: Tensor, b: Tensor, b_norms: Tensor) -> Tensor:
    """(R, M) float32; from a product a distance of zero may come out slightly negative."""
    if a.shape[1] <= DIFFERENCE_WIDTH:
        d2 = a.new_zeros(a.shape[0], b.shape[0])
        for c in range(a.shape[1]):
            d2 += (a[:, c, None] - b[None, :, c]).square_()
        return d2
    d2 = torch.addmm(b_norms, a, b.T, alpha=-2)
    return d2.add_(a.square().sum(1)[:, None])


def _surviving_keys(d2: Tensor, limit: Tensor, ids: Tensor, own: Tensor) -> Tensor | None:
    """Keys (R, S) of entries up to the limit (R,) of their row, padded with ``FAR``.

    None if so many pass, as where most points coincide, that ranking all of them is cheaper.
    """
    rows, width = d2.shape
    passed = np.flatnonzero((d2 <= limit[:, None]).numpy())  # several times faster than nonzero()
    if passed.size > d2.numel() // 8:
        return None
    flat = torch.from_numpy(passed)
    row = flat // width
    column = flat - row * width
    keys = keys_of(d2.view(-1)[flat].clamp_(min=0), ids[column])
    keys[column == own[row]] = FAR
    count = torch.bincount(row, minlength=rows)
    size = int(count.max())
    table = torch.full((rows * size,), FAR)
    rank = torch.arange(flat.numel()) - (count.cumsum(0) - count)[row]
    table[row * size + rank] = keys
    return table.view(rows, size)
