"""Neighbour attention in PyTorch alone, without E x H x D arrays; only E x H arrays are kept.

Formulas: :mod:`common.sparse.attention.reference`; gradients are written by hand, once
differentiable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from common.graph.edges import EdgeList
from common.sparse.attention.inputs import AttentionInputs
from common.sparse.segments.blockwise import gather_dot, gather_sum
from common.sparse.segments.reference import edge_softmax, segment_sum


def neighbor_attention(inputs: AttentionInputs) -> tuple[Tensor, Tensor]:
    """``out`` (N, H, D) and ``dx`` (N, C), as the plain form."""
    # The inputs have one dtype; mixed precision inside would differ between forward and backward.
    with torch.autocast(inputs.edges.src.device.type, enabled=False):
        *arguments, _ = inputs.folded()
        return _Attention.apply(*arguments)


def _per_head(ptr: Tensor, col: Tensor, weight: Tensor, values: Sequence[Tensor]) -> Tensor:
    """(rows, H, R) from weights (E, H) and one dense matrix (N, R) per head."""
    return torch.stack(
        [gather_sum(ptr, col, weight[:, h], dense) for h, dense in enumerate(values)], dim=1
    )


class _Attention(torch.autograd.Function):
    """Keeps the weights (E, H) and the mean displacement per head (N, H, C)."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        q, k, v, x, edges, w_x, gate, beta, bias = arguments
        logits = gather_dot(q, k, edges) / max(q.shape[-1], 1) ** 0.5
        if gate is not None:
            logits += beta * gate[:, None]
        if bias is not None:
            logits += bias
        a = edge_softmax(logits, edges)
        out = _per_head(edges.ptr, edges.src, a, v.unbind(1))
        total = segment_sum(a, edges)  # 1, or 0 in a row without weight
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
        mean = segment_sum(a * da, edges)
        dl = a * (da - mean.index_select(0, edges.dst))
        scale = max(q.shape[-1], 1) ** -0.5
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
