"""What the compiled and the Triton operators share of their registration with autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from common.graph.edges import EdgeList

Grads = tuple[Tensor | None, ...]


def reverse_if_needed(edges: EdgeList, *inputs: Tensor | None) -> tuple[Tensor, Tensor]:
    """The reverse CSR if a gradient will read it, otherwise stand-ins that nothing reads."""
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        return edges.by_source
    return edges.ptr, edges.src


def attention_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, gate, beta, bias = inputs
    out, _, lse, moment = output
    ctx.beta = beta
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, gate, bias, out, lse, moment)


def attention_backward_by(operator: Callable[..., tuple[Tensor, ...]]) -> Callable[..., Grads]:
    """The backward of an attention operator in terms of the operator that computes it."""

    def backward(ctx: Any, grad_out: Tensor, grad_dx: Tensor, *_: Tensor) -> Grads:
        *tensors, gate, bias, out, lse, moment = ctx.saved_tensors
        grad_out = torch.zeros_like(out) if grad_out is None else grad_out
        grad_dx = torch.zeros_like(tensors[3]) if grad_dx is None else grad_dx
        dq, dk, dv, dx, dw, dgate, dbias = operator(
            grad_out, grad_dx, *tensors, gate, ctx.beta, bias, out, lse, moment
        )
        given = (None if gate is None else dgate, None, None if bias is None else dbias)
        return dq, dk, dv, dx, None, None, None, None, None, dw, *given

    return backward
