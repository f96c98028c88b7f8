"""The compiled CPU operators with their gradients and fake shapes.

The formulas stand in :mod:`common.sparse.reference`.  Attention saves the log-sum-exp (N, H) and
the mean displacement per head (N, H, C) and recomputes the weights: one pass over the in-edges
gives the gradients of q, gate, bias and w_x, one over the out-edges (reverse CSR) those of k and v.
The edge gate recomputes everything by tiles of edges.  No result depends on the number of threads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from common.graph.edges import EdgeList
from common.sparse.autograd import (
    Grads,
    attention_backward_by,
    attention_setup,
    reverse_if_needed,
)


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
    rev_ptr, rev_edge = reverse_if_needed(edges, q, k, v, x, w_x, gate, bias)
    graph = (edges.src, edges.dst, edges.ptr, rev_ptr, rev_edge)
    out, dx, _, _ = torch.ops.edgewise.attention(q, k, v, x, *graph, w_x, gate, beta, bias)
    return out, dx


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
    graph = (edges.src, edges.dst, edges.ptr)
    return torch.ops.edgewise.edge_gate(at_dst, at_src, h, *graph, w_in, w_mid, b_mid, w_out, b_out)


def spmm(weight: Tensor, edges: EdgeList, dense: Tensor) -> Tensor:
    reverse = reverse_if_needed(edges, dense)
    return torch.ops.edgewise.spmm(weight, edges.src, edges.dst, edges.ptr, *reverse, dense)


def edge_log_softmax(logits: Tensor, edges: EdgeList) -> Tensor:
    return torch.ops.edgewise.log_softmax(logits, edges.ptr)


def register() -> None:
    """Attach gradients and fake shapes to the operators; call once, after loading the library."""
    attention_backward = attention_backward_by(torch.ops.edgewise.attention_backward)
    for name, setup, backward, fake in (
        ("attention", attention_setup, attention_backward, _attention_fake),
        ("edge_gate", _edge_gate_setup, _edge_gate_backward, _edge_gate_fake),
        ("spmm", _spmm_setup, _spmm_backward, _spmm_fake),
        ("log_softmax", _log_softmax_setup, _log_softmax_backward, _like_first),
    ):
        torch.library.register_autograd(f"edgewise::{name}", backward, setup_context=setup)
        torch.library.register_fake(f"edgewise::{name}", fake)
    torch.library.register_fake("edgewise::attention_backward", _attention_backward_fake)
    torch.library.register_fake("edgewise::edge_gate_backward", _edge_gate_backward_fake)
    torch.library.register_fake("edgewise::gather_sum", _gather_sum_fake)
    torch.library.register_fake(
        "edgewise::gather_dot", lambda row, col, a, b: a.new_empty(len(row))
    )
    torch.library.register_fake("edgewise::log_softmax_backward", _like_first)


def _attention_fake(q: Tensor, k: Tensor, v: Tensor, x: Tensor, *_: Any) -> tuple[Tensor, ...]:
    nodes, heads, _width = q.shape
    out, dx = torch.empty_like(q).contiguous(), torch.empty_like(x).contiguous()
    return out, dx, q.new_empty(nodes, heads), q.new_empty(nodes, heads, x.shape[1])


def _attention_backward_fake(
    grad_out: Tensor, grad_dx: Tensor, q: Tensor, k: Tensor, v: Tensor, x: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    src, w_x, gate, bias = rest[0], rest[5], rest[6], rest[8]
    dgate = q.new_empty(0 if gate is None else len(src))
    dbias = q.new_empty(0 if bias is None else len(src), q.shape[1])
    same = tuple(t.new_empty(t.shape) for t in (q, k, v, x, w_x))
    return *same, dgate, dbias


def _edge_gate_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _edge_gate_backward(ctx: Any, grad: Tensor) -> Grads:
    need_h = ctx.needs_input_grad[2]
    dat_dst, dat_src, dh, *dweights = torch.ops.edgewise.edge_gate_backward(
        grad, *ctx.saved_tensors, need_h
    )
    return dat_dst, dat_src, dh if need_h else None, None, None, None, *dweights


def _edge_gate_fake(at_dst: Tensor, at_src: Tensor, h: Tensor, src: Tensor, *_: Any) -> Tensor:
    return h.new_empty(len(src))


def _edge_gate_backward_fake(
    grad: Tensor, at_dst: Tensor, at_src: Tensor, h: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    weights, need_h = rest[3:8], rest[8]
    dh = h.new_empty(len(h) if need_h else 0, h.shape[1])
    nodes = tuple(t.new_empty(t.shape) for t in (at_dst, at_src))
    return *nodes, dh, *(t.new_empty(t.shape) for t in weights)


def _spmm_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _spmm_backward(ctx: Any, grad: Tensor) -> Grads:
    weight, src, dst, _, rev_ptr, rev_edge, dense = ctx.saved_tensors
    dweight = ddense = None
    if ctx.needs_input_grad[0]:
        dweight = torch.ops.edgewise.gather_dot(dst, src, grad, dense)
    if ctx.needs_input_grad[6]:
        ddense = torch.ops.edgewise.gather_sum(rev_ptr, rev_edge, dst, weight, grad)
    return dweight, None, None, None, None, None, ddense


def _spmm_fake(weight: Tensor, *rest: Tensor) -> Tensor:
    return rest[-1].new_empty(len(rest[2]) - 1, rest[-1].shape[1])


def _gather_sum_fake(
    ptr: Tensor, perm: Tensor, col: Tensor, weight: Tensor, dense: Tensor
) -> Tensor:
    return dense.new_empty(len(ptr) - 1, dense.shape[1])


def _log_softmax_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output, inputs[1])


def _log_softmax_backward(ctx: Any, grad: Tensor) -> Grads:
    return torch.ops.edgewise.log_softmax_backward(grad, *ctx.saved_tensors), None


def _like_first(first: Tensor, *_: Tensor) -> Tensor:
    return first.new_empty(first.shape)
