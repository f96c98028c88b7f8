"""Sparse operations in PyTorch alone, without E x H x D or E x 4F arrays.

The fallback where the extension is missing, and on devices other than the CPU.  Weighted sums over
in-edges are ``embedding_bag`` calls with per-edge weights, those over out-edges the same on the
reverse CSR, and products of node rows are taken by blocks of edges; only E x H arrays are kept.
The edge gate runs by blocks of edges and runs each again in backward.  Formulas:
:mod:`common.sparse.reference`; gradients are written by hand, once differentiable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from common.graph.edges import EdgeList
from common.sparse import reference

BLOCK_EDGES = 8192  # gathered rows of a block then stay in the second-level cache


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
    # The inputs have one dtype; mixed precision inside would differ between forward and backward.
    with torch.autocast(edges.src.device.type, enabled=False):
        return _Attention.apply(q, k, v, x, edges, w_x, gate, beta, bias)


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
    with torch.autocast(edges.src.device.type, enabled=False):
        return _Gate.apply(edges, at_dst, at_src, h, w_in, w_mid, b_mid, w_out, b_out)


def spmm(weight: Tensor, edges: EdgeList, dense: Tensor) -> Tensor:
    return _Spmm.apply(weight, edges, dense)


edge_log_softmax = reference.edge_log_softmax  # its arrays are (E, H) already


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
    parts = [
        (a.index_select(0, edges.dst[ids]) * b.index_select(0, edges.src[ids])).sum(-1)
        for ids in _blocks(edges.num_edges)
    ]
    return torch.cat(parts)


def _per_head(ptr: Tensor, col: Tensor, weight: Tensor, values: Sequence[Tensor]) -> Tensor:
    """(rows, H, R) from weights (E, H) and one dense matrix (N, R) per head."""
    return torch.stack(
        [gather_sum(ptr, col, weight[:, h], dense) for h, dense in enumerate(values)], dim=1
    )


class _Attention(torch.autograd.Function):
    """Keeps the weights (E, H) and the mean displacement per head (N, H, C)."""

    @staticmethod
    def forward(
        ctx: Any,
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
        logits = gather_dot(q, k, edges) / q.shape[-1] ** 0.5
        if gate is not None:
            logits += beta * gate[:, None]
        if bias is not None:
            logits += bias
        a = reference.edge_softmax(logits, edges)
        out = _per_head(edges.ptr, edges.src, a, v.unbind(1))
        total = reference.segment_sum(a, edges)  # 1, or 0 in a row without weight
        moment = (
            _per_head(edges.ptr, edges.src, a, [x] * q.shape[1]) - total[..., None] * x[:, None]
        )
        ctx.edges, ctx.beta, ctx.flags = edges, beta, (gate is not None, bias is not None)
        ctx.save_for_backward(q, k, v, x, w_x, a, total, moment)
        return out, torch.einsum("hcd,nhd->nc", w_x, moment)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor, grad_dx: Tensor) -> tuple[Any, ...]:
        q, k, v, x, w_x, a, total, moment = ctx.saved_tensors
        edges: EdgeList = ctx.edges
        has_gate, has_bias = ctx.flags
        pull = torch.einsum("nc,hcd->nhd", grad_dx, w_x)
        da = gather_dot(grad_out, v, edges) + gather_dot(
            pull, x[:, None].expand(-1, q.shape[1], -1), edges
        )
        # Displacements are x_j - x_i; the x_i part is constant in a row and leaves the softmax.
        mean = reference.segment_sum(a * da, edges)
        dl = a * (da - mean.index_select(0, edges.dst))
        scale = q.shape[-1] ** -0.5
        rev_ptr, rev_edge = edges.by_source
        to = edges.dst[rev_edge]
        rev_a, rev_dl = a[rev_edge], dl[rev_edge]
        dq = _per_head(edges.ptr, edges.src, dl * scale, k.unbind(1))
        dk = _per_head(rev_ptr, to, rev_dl * scale, q.unbind(1))
        dv = _per_head(rev_ptr, to, rev_a, grad_out.unbind(1))
        dx = _per_head(rev_ptr, to, rev_a, pull.unbind(1)).sum(1)
        dx -= (total[..., None] * pull).sum(1)
        dw = torch.einsum("nc,nhd->hcd", grad_dx, moment)
        dgate = ctx.beta * dl.sum(1) if has_gate else None
        return dq, dk, dv, dx, None, dw, dgate, None, dl if has_bias else None


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


class _Gate(torch.autograd.Function):
    """Block by block; backward runs each block again with gradients to its gathered rows."""

    @staticmethod
    def forward(
        ctx: Any, edges: EdgeList, at_dst: Tensor, at_src: Tensor, h: Tensor, *weights: Tensor
    ) -> Tensor:
        ctx.edges = edges
        ctx.save_for_backward(at_dst, at_src, h, *weights)
        parts = [
            _gate_block(*_gate_rows(edges, ids, at_dst, at_src, h), *weights)
            for ids in _blocks(edges.num_edges)
        ]
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        at_dst, at_src, h, *weights = (t.detach() for t in ctx.saved_tensors)
        edges: EdgeList = ctx.edges
        need_h = ctx.needs_input_grad[3]
        dat_dst, dat_src = torch.zeros_like(at_dst), torch.zeros_like(at_src)
        dh = torch.zeros_like(h) if need_h else None
        dweights = [torch.zeros_like(w) for w in weights]
        for w in weights:
            w.requires_grad_()
        for ids in _blocks(edges.num_edges):
            z, hi, hj = _gate_rows(edges, ids, at_dst, at_src, h)
            leaves = [z.requires_grad_(), *weights]
            if need_h:
                leaves += [hi.requires_grad_(), hj.requires_grad_()]
            with torch.enable_grad():
                result = _gate_block(z, hi, hj, *weights)
            dz, *rest = torch.autograd.grad(result, leaves, grad[ids])
            src, dst = edges.src[ids], edges.dst[ids]
            dat_dst.index_add_(0, dst, dz)
            dat_src.index_add_(0, src, dz)
            for total, part in zip(dweights, rest, strict=False):
                total += part
            if dh is not None:
                dh.index_add_(0, dst, rest[-2]).index_add_(0, src, rest[-1])
        return None, dat_dst, dat_src, dh, *dweights


def _gate_rows(
    edges: EdgeList, ids: slice, at_dst: Tensor, at_src: Tensor, h: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    src, dst = edges.src[ids], edges.dst[ids]
    z = at_dst.index_select(0, dst) + at_src.index_select(0, src)
    return z, h.index_select(0, dst), h.index_select(0, src)


def _gate_block(
    z: Tensor,
    hi: Tensor,
    hj: Tensor,
    w_in: Tensor,
    w_mid: Tensor,
    b_mid: Tensor,
    w_out: Tensor,
    b_out: Tensor,
) -> Tensor:
    w_diff, w_prod = w_in.split(hi.shape[1], dim=1)
    z = torch.addmm(z, (hi - hj).abs(), w_diff.T)
    z = torch.addmm(z, hi * hj, w_prod.T)
    hidden = F.gelu(F.linear(F.gelu(z), w_mid, b_mid))
    return F.linear(hidden, w_out, b_out).squeeze(-1)


def _blocks(num_edges: int) -> Iterator[slice]:
    """Consecutive blocks of edges; one empty block when there are none."""
    for start in range(0, max(num_edges, 1), BLOCK_EDGES):
        yield slice(start, min(start + BLOCK_EDGES, num_edges))
