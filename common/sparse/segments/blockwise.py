"""``spmm`` in PyTorch alone, and what the other block-wise operations are made of.

Weighted sums over in-edges are ``embedding_bag`` calls with per-edge weights, those over out-edges
the same on the reverse CSR, and products of node rows are taken by blocks of edges.  Formulas:
:mod:`common.sparse.segments.reference`; gradients are written by hand, once differentiable.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from common.graph.edges import EdgeList

BLOCK_EDGES = 8192  # gathered rows of a block then stay in the second-level cache


def spmm(weight: Tensor, edges: EdgeList, dense: Tensor) -> Tensor:
    """(N, R), as the plain form."""
    return _Spmm.apply(weight, edges, dense)


def gather_sum(ptr: Tensor, col: Tensor, weight: Tensor, dense: Tensor) -> Tensor:
    """(rows, R): ``out_r = sum_p weight_p dense[col_p]`` over p in ``ptr[r]:ptr[r + 1]``."""
    return F.embedding_bag(
        col,
        dense.contiguous(),
        ptr.to(col.dtype),
        mode="sum",
        per_sample_weights=weight.contiguous(),
        include_last_offset=True,
    )


def gather_dot(a: Tensor, b: Tensor, edges: EdgeList) -> Tensor:
    """(E, ...): products over the last axis of the rows ``a[dst_e]`` and ``b[src_e]``."""
    return row_dot(edges.dst, edges.src, a, b)


def row_sum(
    ptr: Tensor, order: Tensor | None, col: Tensor, weight: Tensor, dense: Tensor
) -> Tensor:
    """:func:`gather_sum` over the entries ``order[ptr[r]:ptr[r + 1]]`` of each row."""
    if order is not None:
        col, weight = col.index_select(0, order), weight.index_select(0, order)
    return gather_sum(ptr, col, weight, dense)


def row_dot(row: Tensor, col: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(E, ...): products over the last axis of the rows ``a[row_e]`` and ``b[col_e]``."""
    parts = [
        (a.index_select(0, row[ids]) * b.index_select(0, col[ids])).sum(-1)
        for ids in edge_blocks(len(row))
    ]
    return torch.cat(parts)


def edge_blocks(num_edges: int) -> Iterator[slice]:
    """Consecutive blocks of edges; one empty block when there are none."""
    for start in range(0, max(num_edges, 1), BLOCK_EDGES):
        yield slice(start, min(start + BLOCK_EDGES, num_edges))


class _Spmm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, edges: EdgeList, dense: Tensor) -> Tensor:
        ctx.edges = edges
        ctx.save_for_backward(weight, dense)
        return gather_sum(edges.ptr, edges.src, weight, dense)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        weight, dense = ctx.saved_tensors
        edges: EdgeList = ctx.edges
        dweight = ddense = None
        if ctx.needs_input_grad[0]:
            dweight = gather_dot(grad, dense, edges)
        if ctx.needs_input_grad[2]:
            rev_ptr, rev_edge = edges.by_source
            ddense = gather_sum(rev_ptr, edges.dst[rev_edge], weight[rev_edge], grad)
        return dweight, None, ddense
