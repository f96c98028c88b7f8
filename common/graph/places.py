"""The order in which attention reads the nodes of a graph that is used many times.

Where neighbours lie far apart in memory, attention waits for their rows.  From the edges alone an
order of the nodes can be found in which they lie near; the compiled attention then reads copies in
that order, and its inputs and results stay in the caller's.  Rows of edges move as they are, so
every sum keeps its order and no bit of a result changes.

Finding the order takes as long as some calls save, so it is begun when a graph has been trained on
that often.  Who can move the nodes themselves, once, saves more: :mod:`common.graph.order`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from common.graph.edges import EdgeList
from common.graph.order import graph_order, inverse_order, mean_log_gap

CALLS = 4  # with gradients; they could have saved as much as the order costs (docs/kernels.md)
MIN_DEGREE = 16  # copies take as long as reading some of the rows that a node has
MIN_GAIN = 1.5  # of the mean binary logarithm of how far apart neighbours are
# Neighbours anywhere have a mean of log2(N) - 2.2; those in an order of any kind are nearer.
FAR = 3.5


class Places(NamedTuple):
    """An edge list over places instead of nodes.  Indices are int32 where they fit."""

    rows: Tensor  # (N,) int64, the node at each place
    first: Tensor  # (N,) int64, where its in-edges begin in the list over nodes
    src: Tensor  # (E,)
    dst: Tensor  # (E,)
    ptr: Tensor  # (N + 1,) int64
    rev_ptr: Tensor  # (N + 1,) int64
    rev_edge: Tensor  # (E,) by source, in the order of the list over nodes


def places_of(edges: EdgeList, trained: bool) -> Places | None:
    """The places of a graph on the CPU; None for where its nodes are.

    Args:
        edges: of N nodes.
        trained: whether the call that asks has gradients.
    """
    if "places" not in edges.derived:
        if torch.compiler.is_compiling() or edges.num_edges < MIN_DEGREE * edges.num_nodes:
            return None
        edges.asked["places"] += trained
        if edges.asked["places"] < CALLS:
            return None
        edges.derived["places"] = find_places(edges) or ()
    kept = edges.derived["places"]
    return Places(*kept) if kept else None


def find_places(edges: EdgeList) -> Places | None:
    """Places in which neighbours are nearer; None where they are near, or nothing makes them."""
    before = mean_log_gap(edges.src, edges.dst)
    if before < math.log2(edges.num_nodes) - FAR:
        return None
    places = places_in_order(edges, graph_order(edges))
    return places if mean_log_gap(places.src, places.dst) <= before - MIN_GAIN else None


def places_in_order(edges: EdgeList, rows: Tensor) -> Places:
    """The same edges over places, ``rows`` (N,) int64 being the node at each."""
    place = inverse_order(rows)
    fits = max(edges.num_edges, edges.num_nodes) <= torch.iinfo(torch.int32).max
    kind = torch.int32 if fits else torch.int64
    ptr, edge = _move_rows(edges.ptr, rows)
    rev_ptr, out_edge = _move_rows(edges.by_source[0], rows)
    moved = torch.empty_like(edge)  # where each edge of the list over nodes has come to
    moved[edge] = torch.arange(len(edge))
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
    return moved, torch.arange(len(shift)) + shift
