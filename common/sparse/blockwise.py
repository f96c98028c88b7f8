"""Sparse operations in PyTorch by blocks of nodes, with the block recomputed in backward.

The fallback where the extension is missing, and on devices other than the CPU.  Memory above the
inputs is that of one block of about ``BLOCK_EDGES`` edges: each block runs the plain form without
recording it, and backward runs it again with gradients.  Formulas: :mod:`common.sparse.reference`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from common.edges import EdgeList
from common.sparse import reference

BLOCK_EDGES = 65536

Block = tuple[slice, slice]  # destination rows, edges
Kernel = Callable[[EdgeList, Block, Sequence[Any]], Tensor]


def neighbor_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    x: Tensor,
    edges: EdgeList,
    w_x: Tensor,
    gate: Tensor | None,
    beta: float,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    heads, width = q.shape[1:]

    def kernel(edges: EdgeList, block: Block, inputs: Sequence[Any]) -> Tensor:
        q, k, v, x, w_x, gate, bias = inputs
        rows, ids = block
        part = _sub_edges(edges, block)
        src, dst = edges.src[ids], part.dst
        logits = (q[rows][dst] * k[src]).sum(-1) / width**0.5
        if gate is not None:
            logits = logits + beta * gate[ids, None]
        if bias is not None:
            logits = logits + bias[ids]
        a = reference.edge_softmax(logits, part)
        out = reference.segment_sum(a[:, :, None] * v[src], part)
        moment = reference.segment_sum(
            a[:, :, None] * (x[src] - x[rows][dst])[:, None, :], part
        )  # (rows, H, C)
        dx = torch.einsum("hcd,nhd->nc", w_x, moment)
        return torch.cat([out.flatten(1), dx], dim=1)

    result = _run(kernel, edges, (q, k, v, x, w_x, gate, bias))
    out, dx = result.split([heads * width, x.shape[1]], dim=1)
    return out.reshape(q.shape), dx


def edge_gate(
    at_dst: Tensor,
    at_src: Tensor,
    h: Tensor,
    edges: EdgeList,
    w_in: Tensor,
    w_mid: Tensor,
    b_mid: Tensor,
    w_out: Tensor,
    b_out: Tensor,
) -> Tensor:
    def kernel(edges: EdgeList, block: Block, inputs: Sequence[Any]) -> Tensor:
        at_dst, at_src, h, w_in, w_mid, b_mid, w_out, b_out = inputs
        src, dst = edges.src[block[1]], edges.dst[block[1]]
        hi, hj = h[dst], h[src]
        w_diff, w_prod = w_in.split(h.shape[1], dim=1)
        z = at_dst[dst] + at_src[src]
        z = z + (hi - hj).abs() @ w_diff.T + (hi * hj) @ w_prod.T
        hidden = F.gelu(F.linear(F.gelu(z), w_mid, b_mid))
        return F.linear(hidden, w_out, b_out).squeeze(-1)

    return _run(kernel, edges, (at_dst, at_src, h, w_in, w_mid, b_mid, w_out, b_out))


def spmm(weight: Tensor, edges: EdgeList, dense: Tensor) -> Tensor:
    def kernel(edges: EdgeList, block: Block, inputs: Sequence[Any]) -> Tensor:
        weight, dense = inputs
        ids = block[1]
        return reference.segment_sum(
            weight[ids, None] * dense[edges.src[ids]], _sub_edges(edges, block)
        )

    return _run(kernel, edges, (weight, dense))


edge_log_softmax = reference.edge_log_softmax  # its arrays are (E, H), so blocks gain nothing


def _run(kernel: Kernel, edges: EdgeList, inputs: Sequence[Any]) -> Tensor:
    # The inputs have one dtype; mixed precision inside would differ between forward and backward.
    with torch.autocast(edges.src.device.type, enabled=False):
        return _Blocks.apply(kernel, edges, *inputs)


class _Blocks(torch.autograd.Function):
    """``kernel`` on every block, concatenated; backward runs each block again."""

    @staticmethod
    def forward(ctx: Any, kernel: Kernel, edges: EdgeList, *inputs: Tensor | None) -> Tensor:
        ctx.kernel, ctx.edges = kernel, edges
        ctx.save_for_backward(*inputs)
        return torch.cat([kernel(edges, block, inputs) for block in _blocks(edges)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        inputs: list[Any] = [None if t is None else t.detach() for t in ctx.saved_tensors]
        wanted = [n for n, need in enumerate(ctx.needs_input_grad[2:]) if need]
        leaves = [inputs[n].requires_grad_() for n in wanted]
        totals: list[Tensor | None] = [None] * len(inputs)
        done = 0
        for block in _blocks(ctx.edges):
            with torch.enable_grad():
                result = ctx.kernel(ctx.edges, block, inputs)
            part = grad[done : done + len(result)]
            done += len(result)
            for n, g in zip(wanted, torch.autograd.grad(result, leaves, part), strict=True):
                total = totals[n]
                totals[n] = g if total is None else total.add_(g)
        return None, None, *totals


def _blocks(edges: EdgeList) -> Iterator[Block]:
    """Consecutive rows with at most BLOCK_EDGES in-edges together, at least one row each."""
    row, rows = 0, edges.num_nodes
    ptr = edges.ptr
    while True:
        limit = ptr[row] + BLOCK_EDGES
        end = max(int(torch.searchsorted(ptr, limit, right=True)) - 1, min(row + 1, rows))
        yield slice(row, end), slice(int(ptr[row]), int(ptr[end]))
        if end == rows:
            return
        row = end


def _sub_edges(edges: EdgeList, block: Block) -> EdgeList:
    """The block's edges with destinations counted from its first row; sources keep theirs."""
    rows, ids = block
    ptr = edges.ptr[rows.start : rows.stop + 1] - ids.start
    return EdgeList(edges.src[ids], edges.dst[ids] - rows.start, ptr)
