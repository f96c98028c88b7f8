"""The edge gate of the compiled library, with gradients and fake shapes.

Forward keeps nothing but its inputs; backward recomputes everything by tiles of edges.  No result
depends on the number of threads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.graph.edges import EdgeList
from common.sparse.extension import after_loading
from common.sparse.gate.inputs import GateInputs, GateParts, parts_of
from common.sparse.registration import Grads, attach, like, save_inputs


class Operands(NamedTuple):
    """The arguments of ``edgewise::edge_gate``, in their order; see :class:`GateParts`."""

    at_dst: Tensor
    at_src: Tensor
    h: Tensor
    src: Tensor
    dst: Tensor
    ptr: Tensor
    w_in: Tensor
    w_mid: Tensor
    b_mid: Tensor
    w_out: Tensor
    b_out: Tensor


def edge_gate(inputs: GateInputs, edges: EdgeList) -> Tensor:
    """(E,), as the plain form."""
    return gate_of_parts(parts_of(inputs), edges)


def gate_of_parts(parts: GateParts, edges: EdgeList) -> Tensor:
    """(E,) from the node-wise products of the first layer."""
    at_dst, at_src, h, *weights = parts
    operands = Operands(at_dst, at_src, h, edges.src, edges.dst, edges.ptr, *weights)
    return torch.ops.edgewise.edge_gate(*operands)


def _backward(ctx: Any, grad: Tensor) -> Grads:
    need_h = ctx.needs_input_grad[2]
    dat_dst, dat_src, dh, *dweights = torch.ops.edgewise.edge_gate_backward(
        grad, *ctx.saved_tensors, need_h
    )
    return dat_dst, dat_src, dh if need_h else None, None, None, None, *dweights


def _fake(*arguments: Tensor) -> Tensor:
    operands = Operands(*arguments)
    return operands.h.new_empty(len(operands.src))


def _backward_fake(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *tensors, need_h = arguments
    t = Operands(*tensors)
    dh = t.h.new_empty(len(t.h) if need_h else 0, t.h.shape[1])
    return like(t.at_dst), like(t.at_src), dh, *(like(w) for w in t[6:])


@after_loading
def _register() -> None:
    attach("edge_gate", _fake, _backward, save_inputs)
    attach("edge_gate_backward", _backward_fake)
