"""``spmm`` and ``edge_log_softmax`` of the compiled library, with gradients and fake shapes.

The formulas stand in :mod:`common.sparse.segments.reference`.  No result depends on the number of
threads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from common.graph.edges import EdgeList
from common.sparse.extension import after_loading
from common.sparse.registration import Grads, attach, like, reverse_if_needed, save_inputs


def spmm(weight: Tensor, edges: EdgeList, dense: Tensor) -> Tensor:
    """(N, R), as the plain form."""
    reverse = reverse_if_needed(edges, dense)
    return torch.ops.edgewise.spmm(weight, edges.src, edges.dst, edges.ptr, *reverse, dense)


def edge_log_softmax(logits: Tensor, edges: EdgeList) -> Tensor:
    """(E,) or (E, H), as the plain form."""
    return torch.ops.edgewise.log_softmax(logits, edges.ptr)


def _spmm_backward(ctx: Any, grad: Tensor) -> Grads:
    weight, src, dst, _, rev_ptr, rev_edge, dense = ctx.saved_tensors
    dweight = ddense = None
    if ctx.needs_input_grad[0]:
        dweight = torch.ops.edgewise.gather_dot(dst, src, grad, dense)
    if ctx.needs_input_grad[6]:
        ddense = torch.ops.edgewise.gather_sum(rev_ptr, rev_edge, dst, weight, grad)
    return dweight, None, None, None, None, None, ddense


def _spmm_fake(weight: Tensor, src: Tensor, dst: Tensor, ptr: Tensor, *rest: Tensor) -> Tensor:
    return rest[-1].new_empty(len(ptr) - 1, rest[-1].shape[1])


def _gather_sum_fake(
    ptr: Tensor, perm: Tensor, col: Tensor, weight: Tensor, dense: Tensor
) -> Tensor:
    return dense.new_empty(len(ptr) - 1, dense.shape[1])


def _gather_dot_fake(row: Tensor, col: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(len(row))


def _log_softmax_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output, inputs[1])


def _log_softmax_backward(ctx: Any, grad: Tensor) -> Grads:
    return torch.ops.edgewise.log_softmax_backward(grad, *ctx.saved_tensors), None


@after_loading
def _register() -> None:
    attach("spmm", _spmm_fake, _spmm_backward, save_inputs)
    attach("log_softmax", like, _log_softmax_backward, _log_softmax_setup)
    attach("gather_sum", _gather_sum_fake)
    attach("gather_dot", _gather_dot_fake)
    attach("log_softmax_backward", like)
