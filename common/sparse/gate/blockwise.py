"""The edge gate in PyTorch alone, by blocks of edges that backward runs again.

No array of E x 4F or E x M is kept.  Formula: :mod:`common.sparse.gate.reference`; gradients are
written by hand, once differentiable.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from common.graph.edges import EdgeList
from common.sparse.gate.inputs import GateInputs, GateParts, parts_of
from common.sparse.segments.blockwise import edge_blocks


def edge_gate(inputs: GateInputs, edges: EdgeList) -> Tensor:
    """(E,), as the plain form."""
    return gate_of_parts(parts_of(inputs), edges)


def gate_of_parts(parts: GateParts, edges: EdgeList) -> Tensor:
    """(E,) from the node-wise products of the first layer."""
    # The inputs have one dtype; mixed precision inside would differ between forward and backward.
    with torch.autocast(edges.src.device.type, enabled=False):
        return _Gate.apply(edges, *parts)


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
            for ids in edge_blocks(edges.num_edges)
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
        for ids in edge_blocks(edges.num_edges):
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
