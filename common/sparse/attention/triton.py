"""Neighbour attention of the Triton backend, with gradients and fake shapes.

Registered with ``torch.library`` as ``edgewise::triton_*``, so that ``torch.compile`` takes the
operators as they are.  What is saved for backward and what is recomputed:
:mod:`common.sparse.attention.triton_forward`.  Importing this module does not import Triton.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from common.sparse.attention import triton_launch
from common.sparse.attention.autograd import backward_by, setup
from common.sparse.attention.inputs import AttentionInputs, Operands, operands_of
from common.sparse.registration import like
from common.sparse.tiles import accumulator

_OPERANDS = (
    "Tensor q, Tensor k, Tensor v, Tensor x, Tensor src, Tensor dst, Tensor ptr, Tensor rev_ptr, "
    "Tensor rev_edge, Tensor w_x, Tensor? gate, float beta, Tensor? bias"
)


def neighbor_attention(inputs: AttentionInputs) -> tuple[Tensor, Tensor]:
    """``out`` (N, H, D) and ``dx`` (N, C), as the plain form."""
    inputs = inputs.folded()
    width = inputs.q.shape[2]
    if width == 0:  # blocks of a program hold one value or more
        empty = inputs.x.new_zeros(*inputs.q.shape[:2], 1)
        inputs = inputs._replace(q=empty, k=empty, v=empty)
    out, dx, _, _ = attention(*operands_of(inputs))
    return out[..., :width], dx


@torch.library.custom_op(
    "edgewise::triton_attention",
    mutates_args=(),
    schema=f"({_OPERANDS}) -> (Tensor, Tensor, Tensor, Tensor)",
)
def attention(*operands: Any) -> tuple[Tensor, ...]:
    return tuple(triton_launch.attention_forward(Operands(*operands)))


@torch.library.custom_op(
    "edgewise::triton_attention_backward",
    mutates_args=(),
    schema=(
        f"(Tensor grad_out, Tensor grad_dx, {_OPERANDS}, Tensor out, Tensor lse, Tensor moment) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
)
def attention_backward(grad_out: Tensor, grad_dx: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *operands, out, lse, moment = arguments
    return triton_launch.attention_backward(
        grad_out, grad_dx, Operands(*operands), out, lse, moment
    )


@attention.register_fake
def _(*arguments: Any) -> tuple[Tensor, ...]:
    t = Operands(*arguments)
    nodes, heads, _width = t.q.shape
    wide = accumulator(t.q)
    lse = t.q.new_empty(nodes, heads, dtype=wide)
    return like(t.v), like(t.x), lse, t.q.new_empty(nodes, heads, t.x.shape[1], dtype=wide)


@attention_backward.register_fake
def _(grad_out: Tensor, grad_dx: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *operands, _out, _lse, _moment = arguments
    t = Operands(*operands)
    edges, heads = len(t.src), t.q.shape[1]
    dgate = t.q.new_empty(0) if t.gate is None else t.gate.new_empty(edges)
    dbias = t.q.new_empty(0, heads) if t.bias is None else t.bias.new_empty(edges, heads)
    return *(like(tensor) for tensor in (t.q, t.k, t.v, t.x, t.w_x)), dgate, dbias


attention.register_autograd(backward_by(attention_backward), setup_context=setup)
