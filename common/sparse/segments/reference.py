"""Sums and softmax over in-edges, and ``spmm``, in plain PyTorch: the truth that is tested against.

``spmm`` is the product of the weighted adjacency with a dense matrix.  Rows without edges give
zero, and so do rows whose logits are all minus infinity.

Any floating dtype and device; differentiable any number of times; arrays of E rows are built.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from common.graph.edges import EdgeList


def segment_sum(values: Tensor, edges: EdgeList) -> Tensor:
    """Sum edge values (E, ...) over the in-edges of each node: (N, ...)."""
    total = values.new_zeros(edges.num_nodes, *values.shape[1:])
    return total.index_add(0, edges.dst, values)


def edge_log_softmax(logits: Tensor, edges: EdgeList) -> Tensor:
    """Logarithm of :func:`edge_softmax`, (E,) or (E, H)."""
    with torch.no_grad():
        peak = logits.new_full((edges.num_nodes, *logits.shape[1:]), -math.inf)
        peak = peak.scatter_reduce(0, _rows(logits, edges), logits, "amax")
        # A row that is all -inf would give inf - inf; shifting it by 0 keeps its weights at 0.
        shift = torch.where(peak.isinf(), 0, peak)[edges.dst]
    shifted = logits - shift
    total = segment_sum(shifted.exp(), edges)[edges.dst]
    return shifted - torch.where(total == 0, 1, total).log()


def edge_softmax(logits: Tensor, edges: EdgeList) -> Tensor:
    """Softmax of edge logits (E,) or (E, H) over the in-edges of each node."""
    return edge_log_softmax(logits, edges).exp()


def spmm(weight: Tensor, edges: EdgeList, dense: Tensor) -> Tensor:
    """(N, R) ``out_i = sum_e weight_e dense[src_e]``."""
    return segment_sum(weight[:, None] * dense[edges.src], edges)


def edge_dot(a: Tensor, b: Tensor, edges: EdgeList) -> Tensor:
    """(E, H) ``a_ih . b_jh`` of (N, H, D) rows, or ``a_ih . b_e`` of b (E, D)."""
    at_edge = b[:, None] if b.dim() == 2 else b[edges.src]
    return (a[edges.dst] * at_edge).sum(-1)


def weighted_sum(weight: Tensor, rows: Tensor, edges: EdgeList) -> Tensor:
    """(N, H, D) ``sum_e weight_eh rows_jh``, or of ``rows_e`` (E, D)."""
    at_edge = rows[:, None] if rows.dim() == 2 else rows[edges.src]
    return segment_sum(weight[..., None] * at_edge, edges)


def _rows(logits: Tensor, edges: EdgeList) -> Tensor:
    """Destination of every entry of ``logits``, in its shape."""
    index = edges.dst.long().view(-1, *[1] * (logits.dim() - 1))
    return index.expand_as(logits)
