"""Nearest neighbours in up to four dimensions from KD-trees, identical to the exact engine's.

A tree, SciPy's ``cKDTree`` or torch-cluster's (nanoflann), proposes in float64 the m > k nearest
points of every row, itself among them.  They are ranked by the keys of
:mod:`common.graph.knn.exact`, float32 squared distance above node index, which does not depend on
the tree.  Whatever the tree left out lies at least as far as the farthest proposal, r.  A float32
sum of at most four squared differences is within 2⁻²¹ of its value, so a row is settled if the k-th
key's distance is below (1 − 2⁻²⁰) r²; this also proves its ties right.  Other rows, where more than
m − k points tie at the edge, ask for more and at last compare every pair.

What torch-cluster's ``knn_graph`` gets wrong does not arise: each graph has a tree of its own (an
unsorted ``batch`` mixes graphs silently), a row itself is dropped by index (among coincident points
it may return k + 1 others), and never more points are asked for than there are.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from common.graph.knn import exact

Library = Literal["kdtree", "cluster"]
# (rows (R,), m) -> m nearest points of each row (R, m), itself included.
Query = Callable[[Tensor, int], Tensor]

# Points proposed beyond the k neighbours and the row itself, in turn.
_EXTRA = (4, 64)
_SHRINK = 1.0 - 2.0**-20
# Squares of differences below this underflow in float32, and the relative bound does not hold.
_TINY = 2.0**-120
_ROWS = 2**15


def nearest(x: Tensor, k: int, graph_ptr: Tensor, library: Library) -> tuple[Tensor, Tensor]:
    """k nearest nodes of the same graph, without the node itself.

    Args:
        x: (N, D) float32, finite, D from 1 to 4, on the CPU.
        k: neighbours per node.
        graph_ptr: (B + 1,) int64, rising from 0 to N.
        library: ``"kdtree"`` for SciPy, ``"cluster"`` for torch-cluster.

    Returns:
        index (N, k) int64, nearest first, and valid (N, k) bool.
    """
    index = torch.zeros(x.shape[0], k, dtype=torch.int64)
    valid = torch.zeros(x.shape[0], k, dtype=torch.bool)
    build = _scipy_tree if library == "kdtree" else _cluster_tree
    for left, right in pairwise(graph_ptr.tolist()):
        if right - left > 1:
            _fill(x, k, (left, right), build(x[left:right].double()), index, valid)
    return index, valid


def _fill(
    x: Tensor, k: int, among: tuple[int, int], query: Query, index: Tensor, valid: Tensor
) -> None:
    """Write the rows of one graph."""
    left, right = among
    size = right - left
    width = min(k, size - 1)
    pending = torch.arange(size)
    for extra in _EXTRA:
        m = min(size, k + 1 + extra)
        unsettled = []
        for rows in pending.split(_ROWS):
            keys, reach = _ranked(x[left:right], rows, query(rows, m))
            keys = keys[:, :width]
            settled = (exact.distance_of(keys[:, -1]) < reach) | (m == size)
            done = rows[settled] + left
            index[done, :width] = exact.node_of(keys[settled]) + left
            valid[done, :width] = True
            unsettled.append(rows[~settled])
        pending = torch.cat(unsettled)
        if not pending.numel():
            return
    rows = pending + left
    index[rows], valid[rows] = exact.nearest_to_rows(x, k, rows, among)


def _ranked(x: Tensor, rows: Tensor, proposed: Tensor) -> tuple[Tensor, Tensor]:
    """Ascending keys (R, m) of the proposals, last the row itself; and up to where they are all.

    The second result (R,) float64 is a squared distance: no other point has a float32 squared
    distance below it.
    """
    d2 = x.new_zeros(proposed.shape)
    true = torch.zeros(proposed.shape, dtype=torch.float64)
    for c in range(x.shape[1]):
        column = x[:, c].contiguous()
        a, b = column[rows][:, None], column[proposed]
        d2 += (a - b).square_()
        true += (a.double() - b).square_()
    keys = exact.keys_of(d2, proposed)
    keys[proposed == rows[:, None]] = exact.FAR
    return keys.sort(dim=1).values, true.amax(1) * _SHRINK - _TINY


def _scipy_tree(points: Tensor) -> Query:
    from scipy.spatial import cKDTree  # here, as it takes longer to load than all else

    tree = cKDTree(points.numpy())

    def query(rows: Tensor, m: int) -> Tensor:
        _, found = tree.query(points[rows].numpy(), m, workers=torch.get_num_threads())
        return torch.from_numpy(found)

    return query


def _cluster_tree(points: Tensor) -> Query:
    from torch_cluster import knn

    def query(rows: Tensor, m: int) -> Tensor:
        # Row 0 of the result is the query, row 1 the point found; each query has m, in order.
        found = knn(points, points[rows], m, num_workers=torch.get_num_threads())[1]
        return found.view(rows.numel(), m)

    return query
