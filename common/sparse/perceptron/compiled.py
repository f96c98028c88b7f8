"""The perceptron of the compiled library: the hidden layer stays in cache, by tiles of rows.

Forward keeps nothing but its inputs; backward recomputes the hidden layer.  No result depends on
the number of threads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from common.sparse.extension import after_loading
from common.sparse.registration import Grads, attach, like, save_inputs


def edge_perceptron(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor) -> Tensor:
    """As the plain form."""
    out: Tensor = torch.ops.edgewise.perceptron(x, w1, b1, w2)
    return out


def _backward(ctx: Any, grad: Tensor) -> Grads:
    need_x = ctx.needs_input_grad[0]
    saved = ctx.saved_tensors
    dx, *dweights = torch.ops.edgewise.perceptron_backward(grad, *saved, need_x)
    return dx if need_x else None, *dweights


def _fake(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor) -> Tensor:
    return x.new_empty(len(x), len(w2))


def _backward_fake(
    grad: Tensor, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, need_x: bool
) -> tuple[Tensor, ...]:
    dx = x.new_empty(len(x) if need_x else 0, x.shape[1])
    return dx, like(w1), like(b1), like(w2)


@after_loading
def _register() -> None:
    attach("perceptron", _fake, _backward, save_inputs)
    attach("perceptron_backward", _backward_fake)
