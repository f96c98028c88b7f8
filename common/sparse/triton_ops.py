"""The operators of the Triton backend, with their gradients and fake shapes.

Registered with ``torch.library`` as ``edgewise::triton_*``, so that ``torch.compile`` takes them as
they are.  What is saved for backward and what is recomputed: :mod:`common.sparse.triton_attention`.
Importing this module does not import Triton.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from common.graph.edges import EdgeList
from common.sparse import blockwise, triton_gate_launch, triton_launch, triton_segment_ops
from common.sparse.autograd import (
    Grads,
    attention_backward_by,
    attention_setup,
    reverse_if_needed,
)

_ATTENTION = (
    "Tensor q, Tensor k, Tensor v, Tensor x, Tensor src, Tensor dst, Tensor ptr, Tensor rev_ptr, "
    "Tensor rev_edge, Tensor w_x, Tensor? gate, float beta, Tensor? bias"
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
    out, dx, _, _ = attention(q, k, v, x, *graph, w_x, gate, beta, bias)
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
    weights = (w_in, w_mid, b_mid, w_out, b_out)
    if not triton_serves_gate(h, w_mid):
        return blockwise.edge_gate(at_dst, at_src, h, edges, *weights)
    rev_ptr, rev_edge = reverse_if_needed(edges, at_dst, at_src, h, *weights)
    graph = (edges.src, edges.dst, edges.ptr, rev_ptr, rev_edge)
    return gate(at_dst, at_src, h, *graph, *weights)


def triton_serves_gate(h: Tensor, w_mid: Tensor) -> bool:
    """Whether :func:`edge_gate` runs in Triton; block-wise PyTorch takes what is left.

    1 to 64 hidden units; on CUDA devices float32, and shared memory for backward (A100, H100 and
    later data-centre devices have it; torch tells from 2.7 on).
    """
    if not (0 < w_mid.shape[0] <= triton_gate_launch.MAX_HIDDEN and h.shape[1] > 0):
        return False
    if not h.is_cuda:
        return True
    device = torch.cuda.get_device_properties(h.device)
    memory = getattr(device, "shared_memory_per_block_optin", 0)
    return h.dtype == torch.float32 and memory >= triton_gate_launch.SHARED_MEMORY


spmm = triton_segment_ops.spmm
edge_log_softmax = triton_segment_ops.edge_log_softmax


@torch.library.custom_op(
    "edgewise::triton_attention",
    mutates_args=(),
    schema=f"({_ATTENTION}) -> (Tensor, Tensor, Tensor, Tensor)",
)
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    x: Tensor,
    src: Tensor,
    dst: Tensor,
    ptr: Tensor,
    rev_ptr: Tensor,
    rev_edge: Tensor,
    w_x: Tensor,
    gate: Tensor | None,
    beta: float,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return triton_launch.attention_forward(q, k, v, x, src, ptr, w_x, gate, beta, bias)


@torch.library.custom_op(
    "edgewise::triton_attention_backward",
    mutates_args=(),
    schema=(
        f"(Tensor grad_out, Tensor grad_dx, {_ATTENTION}, Tensor out, Tensor lse, Tensor moment) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
)
def attention_backward(
    grad_out: Tensor,
    grad_dx: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    x: Tensor,
    src: Tensor,
    dst: Tensor,
    ptr: Tensor,
    rev_ptr: Tensor,
    rev_edge: Tensor,
    w_x: Tensor,
    gate: Tensor | None,
    beta: float,
    bias: Tensor | None,
    out: Tensor,
    lse: Tensor,
    moment: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    graph = (src, dst, ptr, rev_ptr, rev_edge)
    return triton_launch.attention_backward(
        grad_out, grad_dx, q, k, v, x, *graph, w_x, gate, beta, bias, out, lse, moment
    )


@attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, x: Tensor, *_: Any) -> tuple[Tensor, ...]:
    nodes, heads, _width = q.shape
    wide = triton_launch.accumulator(q)
    lse = q.new_empty(nodes, heads, dtype=wide)
    return _like(v), _like(x), lse, q.new_empty(nodes, heads, x.shape[1], dtype=wide)


@attention_backward.register_fake
def _(
    grad_out: Tensor, grad_dx: Tensor, q: Tensor, k: Tensor, v: Tensor, x: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    src, w_x, gate, bias = rest[0], rest[5], rest[6], rest[8]
    dgate = q.new_empty(0) if gate is None else gate.new_empty(len(src))
    dbias = q.new_empty(0, q.shape[1]) if bias is None else bias.new_empty(len(src), q.shape[1])
    return *(_like(t) for t in (q, k, v, x, w_x)), dgate, dbias


def _like(tensor: Tensor) -> Tensor:
    return tensor.new_empty(tensor.shape)


attention.register_autograd(
    attention_backward_by(attention_backward), setup_context=attention_setup
)


_GATE = (
    "Tensor at_dst, Tensor at_src, Tensor h, Tensor src, Tensor dst, Tensor ptr, Tensor rev_ptr, "
    "Tensor rev_edge, Tensor w_in, Tensor w_mid, Tensor b_mid, Tensor w_out"
)


@torch.library.custom_op(
    "edgewise::triton_edge_gate", mutates_args=(), schema=f"({_GATE}, Tensor b_out) -> Tensor"
)
def gate(
    at_dst: Tensor,
    at_src: Tensor,
    h: Tensor,
    src: Tensor,
    dst: Tensor,
    ptr: Tensor,
    rev_ptr: Tensor,
    rev_edge: Tensor,
    w_in: Tensor,
    w_mid: Tensor,
    b_mid: Tensor,
    w_out: Tensor,
    b_out: Tensor,
) -> Tensor:
    weights = (w_in, w_mid, b_mid, w_out, b_out)
    return triton_gate_launch.gate_forward(at_dst, at_src, h, src, dst, *weights)


@torch.library.custom_op(
    "edgewise::triton_edge_gate_backward",
    mutates_args=(),
    schema=(f"(Tensor grad, {_GATE}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"),
)
def gate_backward(
    grad: Tensor,
    at_dst: Tensor,
    at_src: Tensor,
    h: Tensor,
    src: Tensor,
    dst: Tensor,
    ptr: Tensor,
    rev_ptr: Tensor,
    rev_edge: Tensor,
    w_in: Tensor,
    w_mid: Tensor,
    b_mid: Tensor,
    w_out: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    graph = (src, dst, ptr, rev_ptr, rev_edge)
    return triton_gate_launch.gate_backward(
        grad, at_dst, at_src, h, *graph, w_in, w_mid, b_mid, w_out
    )


@gate.register_fake
def _(at_dst: Tensor, at_src: Tensor, h: Tensor, src: Tensor, *_: Any) -> Tensor:
    return h.new_empty(len(src))


@gate_backward.register_fake
def _(grad: Tensor, at_dst: Tensor, at_src: Tensor, h: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return tuple(_like(t) for t in (at_dst, at_src, h, *rest[5:]))


def _gate_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, _b_out = inputs
    ctx.save_for_backward(*tensors)


def _gate_backward(ctx: Any, grad: Tensor) -> Grads:
    dat_dst, dat_src, dh, *dweights = gate_backward(grad, *ctx.saved_tensors)
    return dat_dst, dat_src, dh, None, None, None, None, None, *dweights, grad.sum().reshape(1)


gate.register_autograd(_gate_backward, setup_context=_gate_setup)
