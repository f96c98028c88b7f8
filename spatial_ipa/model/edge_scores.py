"""How scores order the edges of a graph: ranks, hits among the highest, rank correlation.

A group is what a score is ranked within: the row of a node (``edges.dst``), or a whole graph of a
union (``graph[edges.dst]``).  Edges are sorted by node and nodes by graph, so either lies in one
piece, and one sort serves all groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from common.graph.edges import EdgeList
from spatial_ipa.geometry.gauge import graph_mean

TOP = 30
"""Edges of a row that count as picked."""


@dataclass(frozen=True)
class Ranks:
    """Ranks of scores within groups, 0 the highest.

    Attributes:
        ordinal: (E,) int64, equal scores in the order of their edges.
        shared: (E,) float32, the mean of their ordinal ranks for equal scores.
    """

    ordinal: Tensor
    shared: Tensor


def ranks(score: Tensor, group: Tensor, num_groups: int) -> Ranks:
    """Rank scores.

    Args:
        score: (E,), compared in float32.
        group: (E,) int64 or int32, non-decreasing.
        num_groups: G, less than 2^31.
    """
    # One sort of integers orders group and score at once: the bits of a float, those of a negative
    # one turned round, order as the float does.  Adding 0 makes -0 and 0 equal.
    bits = (score.detach().float() + 0.0).view(torch.int32)
    key = (group.long() << 32) - (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    sorted_key, order = torch.sort(key, stable=True)
    count = torch.bincount(group, minlength=num_groups)
    first = (count.cumsum(0) - count)[group]
    place = torch.arange(len(key), device=key.device)
    ordinal, shared = torch.empty_like(place), torch.empty_like(place, dtype=torch.float32)
    ordinal[order] = place - first
    new = torch.ones_like(key, dtype=torch.bool)
    new[1:] = sorted_key[1:] != sorted_key[:-1]
    start = place[new]
    run = new.cumsum(0) - 1
    end = torch.cat([start[1:], place.new_tensor([len(key)])])
    shared[order] = ((start + end - 1)[run] - 2 * first).float() / 2
    return Ranks(ordinal, shared)


def row_ranks(score: Tensor, edges: EdgeList) -> Ranks:
    """Rank scores (E,) within the rows of nodes."""
    return ranks(score, edges.dst, edges.num_nodes)


def spearman(a: Tensor, b: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """(G,) Spearman's rho in each group, from shared ranks (E,); NaN where one does not vary."""
    count = torch.bincount(group, minlength=num_groups).clamp(min=1)
    # Over the size of the group: sums of squared ranks of a large one have no digits to spare.
    u, v = (rank / count[group] for rank in (a, b))
    u, v = (rank - graph_mean(rank, group, num_groups)[group] for rank in (u, v))
    cov, var_u, var_v = (graph_mean(w, group, num_groups) for w in (u * v, u * u, v * v))
    return torch.where((var_u > 0) & (var_v > 0), cov / (var_u * var_v).sqrt(), torch.nan)


def row_spearman(a: Ranks, b: Ranks, edges: EdgeList) -> Tensor:
    """(N,) Spearman's rho of each row; NaN of one with less than two edges, or equal scores."""
    return spearman(a.shared, b.shared, edges.dst, edges.num_nodes)


def joins_true(edges: EdgeList, known: EdgeList) -> Tensor:
    """(E,) bool: which edges are among the ``known`` ones, of the same nodes."""
    n = edges.num_nodes
    wanted, held = (e.dst.long() * n + e.src for e in (edges, known))
    if not len(held):
        return torch.zeros_like(wanted, dtype=torch.bool)
    # Both ascend: edges are sorted by node and source.
    return held[torch.searchsorted(held, wanted).clamp(max=len(held) - 1)] == wanted


def top_hits(rank: Ranks, is_true: Tensor, edges: EdgeList) -> Tensor:
    """(N,) how many of the 30 highest-scored edges of each row are true, ``is_true`` (E,) bool."""
    hit = ((rank.ordinal < TOP) & is_true).long()
    return hit.new_zeros(edges.num_nodes).index_add(0, edges.dst, hit)


def top_precision_recall(
    rank: Ranks, is_true: Tensor, true_degree: Tensor, edges: EdgeList
) -> tuple[Tensor, Tensor]:
    """Precision and recall of the 30 highest-scored edges of each row.

    Args:
        rank: of any score.
        is_true: (E,) bool, the edge joins true neighbours.
        true_degree: (N,) number of true neighbours, candidates or not.
        edges: rows.

    Returns:
        (N,) each, NaN for rows without edges.  Precision divides by the edges picked, recall by
        min(30, true neighbours).
    """
    hits = top_hits(rank, is_true, edges)
    empty = edges.in_degree == 0
    precision = hits / edges.in_degree.clamp(max=TOP)
    recall = hits / true_degree.clamp(min=1, max=TOP)
    return precision.masked_fill(empty, torch.nan), recall.masked_fill(empty, torch.nan)


def mean_of_rows(value: Tensor, graph: Tensor, num_graphs: int) -> Tensor:
    """(B,) mean over the rows of each graph of ``value`` (N,), those that are NaN left out."""
    known = torch.isfinite(value)
    total = value.new_zeros(num_graphs).index_add(0, graph, value.nan_to_num(0.0))
    return total / value.new_zeros(num_graphs).index_add(0, graph, known.to(value.dtype))
