"""The perceptron in PyTorch, on the CPU by blocks of rows; once differentiable there.

Over 80,000 edges a hidden layer of 32 is 10 MB, written and read several times a step; that of a
block stays in the processor's cache, and the backward pass computes it anew.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from common.sparse.perceptron import reference

_ROWS = 4096


def edge_perceptron(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor) -> Tensor:
    """As the plain form."""
    if x.device.type != "cpu":  # where a launch per block would cost more than it saves
        return reference.edge_perceptron(x, w1, b1, w2)
    with torch.autocast(x.device.type, enabled=False):
        return _Blocks.apply(x, w1, b1, w2)


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor) -> Tensor:
        ctx.save_for_backward(x, w1, b1, w2)
        out = x.new_empty(len(x), len(w2))
        for rows, made in zip(x.split(_ROWS), out.split(_ROWS), strict=True):
            torch.mm(functional.gelu(torch.addmm(b1, rows, w1.mT)), w2.mT, out=made)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, w1, b1, w2 = ctx.saved_tensors
        dx = []
        dw1, db1, dw2 = torch.zeros_like(w1), torch.zeros_like(b1), torch.zeros_like(w2)
        for rows, at in zip(x.split(_ROWS), grad.split(_ROWS), strict=True):
            hidden = torch.addmm(b1, rows, w1.mT)
            dw2.addmm_(at.mT, functional.gelu(hidden))
            back = torch.ops.aten.gelu_backward(at @ w2, hidden)
            dw1.addmm_(back.mT, rows)
            db1 += back.sum(0)
            if ctx.needs_input_grad[0]:
                dx.append(back @ w1)
        return torch.cat(dx) if dx else None, dw1, db1, dw2
