"""What the compiled and the Triton operator share of their registration with autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from common.sparse.attention.inputs import Operands, Result
from common.sparse.registration import Grads


def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Keep the operands, what an operator takes beside them, the output and what recomputes the
    weights."""
    common = len(Operands._fields)
    *tensors, gate, beta, bias = Operands(*inputs[:common])
    result, more = Result(*output), inputs[common:]
    ctx.beta, ctx.more = beta, len(more)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*more, *tensors, gate, bias, result.out, result.lse, result.moment)


def backward_by(operator: Callable[..., tuple[Tensor, ...]]) -> Callable[..., Grads]:
    """The backward of an attention operator in terms of the operator that computes it."""

    def backward(ctx: Any, grad_out: Tensor, grad_dx: Tensor, *_: Tensor) -> Grads:
        saved = ctx.saved_tensors  # read once: checkpointing unpacks at every reading
        more = saved[: ctx.more]
        *tensors, gate, bias, out, lse, moment = saved[ctx.more :]
        operands = Operands._make((*tensors, gate, ctx.beta, bias))
        grad_out = torch.zeros_like(out) if grad_out is None else grad_out
        grad_dx = torch.zeros_like(operands.x) if grad_dx is None else grad_dx
        grads = operator(grad_out, grad_dx, *operands, *more, out, lse, moment)
        dq, dk, dv, dx, dw, dgate, dbias = grads
        given = (None if gate is None else dgate, None, None if bias is None else dbias)
        return dq, dk, dv, dx, None, None, None, None, None, dw, *given, *(None for _ in more)

    return backward
