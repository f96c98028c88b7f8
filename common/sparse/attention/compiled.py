"""Neighbour attention of the compiled library, with gradients and fake shapes.

Forward keeps the log-sum-exp (N, H) and the mean displacement per head (N, H, C); backward
recomputes the weights: one pass over the in-edges gives the gradients of q, gate, bias and w_x,
one over the out-edges (reverse CSR) those of k and v.  No result depends on the number of threads,
nor on the order that a graph's nodes are read in (:mod:`common.graph.places`).

Without states (D = 0) an operator of its own knows distances and needs no second pass of exponents.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from common.graph.places import places_of
from common.sparse.attention.autograd import backward_by, setup
from common.sparse.attention.inputs import (
    AttentionInputs,
    Operands,
    operands_of,
    point_operands_of,
)
from common.sparse.extension import after_loading
from common.sparse.registration import Grads, attach, like


def neighbor_attention(inputs: AttentionInputs) -> tuple[Tensor, Tensor]:
    """``out`` (N, H, D) and ``dx`` (N, C), as the plain form."""
    if inputs.q.shape[2] == 0:
        dx, _, _ = torch.ops.edgewise.points(*point_operands_of(inputs))
        nothing = inputs.q + inputs.k + inputs.v  # so that they have a gradient, of no numbers
        return nothing, dx + nothing.sum() if nothing.requires_grad else dx
    operands, rows, first = operands_of(inputs.folded()), None, None
    places = places_of(inputs.edges)
    if places is not None:
        rows, first, src, dst, ptr, rev_ptr, rev_edge = places
        operands = operands._replace(src=src, dst=dst, ptr=ptr, rev_ptr=rev_ptr, rev_edge=rev_edge)
    out, dx, _, _ = torch.ops.edgewise.attention(*operands, rows, first)
    return out, dx


def _fake(*arguments: Any) -> tuple[Tensor, ...]:
    *operands, _rows, _first = arguments
    t = Operands(*operands)
    nodes, heads, _width = t.q.shape
    out, dx = torch.empty_like(t.q).contiguous(), torch.empty_like(t.x).contiguous()
    return out, dx, t.q.new_empty(nodes, heads), t.q.new_empty(nodes, heads, t.x.shape[1])


def _backward_fake(grad_out: Tensor, grad_dx: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *operands, _rows, _first, _out, _lse, _moment = arguments
    t = Operands(*operands)
    dgate = t.q.new_empty(0 if t.gate is None else len(t.src))
    dbias = t.q.new_empty(0 if t.bias is None else len(t.src), t.q.shape[1])
    return *(like(tensor) for tensor in (t.q, t.k, t.v, t.x, t.w_x)), dgate, dbias


def _points_fake(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    heads = len(arguments[5])  # of w_x
    return like(x), x.new_empty(len(x), heads), x.new_empty(len(x), heads, x.shape[1])


def _points_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, gate, beta, bias, gamma = inputs
    _, lse, moment = output
    ctx.beta = beta
    ctx.save_for_backward(*tensors, gate, bias, gamma, lse, moment)


def _points_backward(ctx: Any, grad: Tensor, *_: Tensor) -> Grads:
    *tensors, gate, bias, gamma, lse, moment = ctx.saved_tensors
    dx, dw, dgate, dbias, dgamma = torch.ops.edgewise.points_backward(
        grad, *tensors, gate, ctx.beta, bias, gamma, lse, moment
    )
    given = [None if t is None else d for t, d in ((gate, dgate), (bias, dbias), (gamma, dgamma))]
    return dx, None, None, None, None, None, dw, given[0], None, *given[1:]


def _points_backward_fake(grad: Tensor, x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    src, *_, w_x, gate, _beta, bias, gamma, _lse, _moment = arguments
    edges, heads = len(src), len(w_x)
    dgate, dbias = x.new_empty(0 if gate is None else edges), x.new_empty(edges, heads)
    dbias = x.new_empty(0, heads) if bias is None else dbias
    return like(x), like(w_x), dgate, dbias, x.new_empty(0 if gamma is None else heads)


@after_loading
def _register() -> None:
    backward = backward_by(torch.ops.edgewise.attention_backward)
    attach("attention", _fake, backward, setup)
    attach("attention_backward", _backward_fake)
    attach("points", _points_fake, _points_backward, _points_setup)
    attach("points_backward", _points_backward_fake)
