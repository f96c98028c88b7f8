"""Neighbour attention of the compiled library, with gradients and fake shapes.

Forward keeps the log-sum-exp (N, H) and the mean displacement per head (N, H, C); backward
recomputes the weights: one pass over the in-edges gives the gradients of q, gate, bias and w_x,
one over the out-edges (reverse CSR) those of k and v.  No result depends on the number of threads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from common.sparse.attention.autograd import backward_by, setup
from common.sparse.attention.inputs import AttentionInputs, Operands, operands_of
from common.sparse.extension import after_loading
from common.sparse.registration import attach, like


def neighbor_attention(inputs: AttentionInputs) -> tuple[Tensor, Tensor]:
    """``out`` (N, H, D) and ``dx`` (N, C), as the plain form."""
    out, dx, _, _ = torch.ops.edgewise.attention(*operands_of(inputs))
    return out, dx


def _fake(*arguments: Any) -> tuple[Tensor, ...]:
    t = Operands(*arguments)
    nodes, heads, _width = t.q.shape
    out, dx = torch.empty_like(t.q).contiguous(), torch.empty_like(t.x).contiguous()
    return out, dx, t.q.new_empty(nodes, heads), t.q.new_empty(nodes, heads, t.x.shape[1])


def _backward_fake(grad_out: Tensor, grad_dx: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *operands, _out, _lse, _moment = arguments
    t = Operands(*operands)
    dgate = t.q.new_empty(0 if t.gate is None else len(t.src))
    dbias = t.q.new_empty(0 if t.bias is None else len(t.src), t.q.shape[1])
    return *(like(tensor) for tensor in (t.q, t.k, t.v, t.x, t.w_x)), dgate, dbias


@after_loading
def _register() -> None:
    backward = backward_by(torch.ops.edgewise.attention_backward)
    attach("attention", _fake, backward, setup)
    attach("attention_backward", _backward_fake)
