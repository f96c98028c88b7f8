"""An order to read a graph's nodes in, for graphs that attention goes over many times.

Where neighbours lie far apart in memory, attention waits for their rows.  From the edges alone an
order of the nodes can be found in which they lie near; the compiled attention then reads copies in
that order, and its inputs and results stay in the caller's.  Rows of edges move as they are, so
every sum keeps its order and no bit of a result changes.

    edges = for_many_calls(EdgeList.from_edge_index(edge_index, num_nodes))
    for _ in range(1000):
        out, dx = neighbor_attention(q, k, v, x, edges, w_x)

Who can move the nodes themselves, once, saves more: :mod:`common.graph.order`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from common.graph.edges import EdgeList
from common.graph.order import graph_order, inverse_order, mean_log_gap

MIN_GAIN = 1.5  # of the mean binary logarithm of how far apart neighbours are


class Places(NamedTuple):
    """An edge list over places instead of nodes.  Indices are int32 where they fit."""

    rows: Tensor  # (N,) int64, the node at each place
    first: Tensor  # (N,) int64, where its in-edges begin in the list over nodes
    src: Tensor  # (E,)
    dst: Tensor  # (E,)
    ptr: Tensor  # (N + 1,) int64
    rev_ptr: Tensor  # (N + 1,) int64
    rev_edge: Tensor  # (E,) by source, in the order of the list over nodes


def for_many_calls(edges: EdgeList) -> EdgeList:
    """The same edges, which compiled attention reads in an order in which neighbours are near.

    Finding it takes what three to seven calls with gradients save on large graphs of 100 edges a
    node; with 20 it does not pay (docs/kernels.md).  Where no order brings neighbours nearer, the
    list comes back as it is.

    Args:
        edges: of N nodes, on the CPU.
    """
    if edges.num_edges == 0:
        return edges
    places = places_in_order(edges, graph_order(edges))
    gain = mean_log_gap(edges.src, edges.dst) - mean_log_gap(places.src, places.dst)
    if gain < MIN_GAIN:
        return edges
    return EdgeList(edges.src, edges.dst, edges.ptr, {**edges.derived, "places": places})


def places_of(edges: EdgeList) -> Places | None:
    """What :func:`for_many_calls` has found, if anything."""
    kept = edges.derived.get("places")
    return None if kept is None else Places(*kept)


def places_in_order(edges: EdgeList, rows: Tensor) -> Places:
    """The same edges over places, ``rows`` (N,) int64 being the node at each."""
    place = inverse_order(rows)
    fits = max(edges.num_edges, edges.num_nodes) <= torch.iinfo(torch.int32).max
    kind = torch.int32 if fits else torch.int64
    ptr, edge = _move_rows(edges.ptr, rows)
    rev_ptr, out_edge = _move_rows(edges.by_source[0], rows)
    moved = torch.empty_like(edge)  # where each edge of the list over nodes has come to
    moved[edge] = torch.arange(len(edge), device=edge.device)
    return Places(
        rows=rows,
        first=edges.ptr[rows],
        src=place[edges.src[edge]].to(kind),
        dst=place[edges.dst[edge]].to(kind),
        ptr=ptr,
        rev_ptr=rev_ptr,
        rev_edge=moved[edges.by_source[1][out_edge]].to(kind),
    )


def _move_rows(ptr: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The row pointer of the rows in another order, and (E,) which entry has come where."""
    degree = (ptr[1:] - ptr[:-1])[rows]
    moved = torch.cat([ptr[:1], degree.cumsum(0)])
    shift = torch.repeat_interleave(ptr[rows] - moved[:-1], degree)
    return moved, torch.arange(len(shift), device=ptr.device) + shift
