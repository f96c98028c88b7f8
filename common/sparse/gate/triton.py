"""The edge gate of the Triton backend, with gradients and fake shapes.

Registered with ``torch.library`` as ``edgewise::triton_*``.  The kernels:
:mod:`common.sparse.gate.triton_forward`.  Importing this module does not import Triton.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from common.graph.edges import EdgeList
from common.sparse.gate import triton_launch
from common.sparse.gate.inputs import GateInputs, parts_of
from common.sparse.gate.triton_launch import Operands
from common.sparse.registration import Grads, like, reverse_if_needed

_OPERANDS = (
    "Tensor at_dst, Tensor at_src, Tensor h, Tensor src, Tensor dst, Tensor ptr, Tensor rev_ptr, "
    "Tensor rev_edge, Tensor w_in, Tensor w_mid, Tensor b_mid, Tensor w_out"
)


def serves(inputs: GateInputs) -> str | None:
    """Why these kernels cannot take a call, or None.

    They take 1 to 64 hidden units; on CUDA devices float32, and shared memory for backward (A100,
    H100 and later data-centre devices have it; torch tells from 2.7 on).
    """
    if not 0 < inputs.w2.shape[0] <= triton_launch.MAX_HIDDEN:
        return f"takes 1 to {triton_launch.MAX_HIDDEN} hidden units"
    if not inputs.h.shape[1] > 0:
        return "takes at least one feature"
    if not inputs.h.is_cuda:
        return None
    device = torch.cuda.get_device_properties(inputs.h.device)
    memory = getattr(device, "shared_memory_per_block_optin", 0)
    if inputs.h.dtype != torch.float32:
        return "takes float32 alone on CUDA devices"
    if not memory >= triton_launch.SHARED_MEMORY:
        return "needs more shared memory than this device has"
    return None


def edge_gate(inputs: GateInputs, edges: EdgeList) -> Tensor:
    """(E,), as the plain form."""
    parts = parts_of(inputs)
    at_dst, at_src, h, *weights = parts
    reverse = reverse_if_needed(edges, *parts)
    return gate(at_dst, at_src, h, edges.src, edges.dst, edges.ptr, *reverse, *weights)


@torch.library.custom_op(
    "edgewise::triton_edge_gate", mutates_args=(), schema=f"({_OPERANDS}, Tensor b_out) -> Tensor"
)
def gate(*arguments: Tensor) -> Tensor:
    *operands, b_out = arguments
    return triton_launch.gate_forward(Operands(*operands), b_out)


@torch.library.custom_op(
    "edgewise::triton_edge_gate_backward",
    mutates_args=(),
    schema=(
        f"(Tensor grad, {_OPERANDS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
)
def gate_backward(grad: Tensor, *operands: Tensor) -> tuple[Tensor, ...]:
    return triton_launch.gate_backward(grad, Operands(*operands))


@gate.register_fake
def _(*arguments: Tensor) -> Tensor:
    *operands, _b_out = arguments
    t = Operands(*operands)
    return t.h.new_empty(len(t.src))


@gate_backward.register_fake
def _(grad: Tensor, *operands: Tensor) -> tuple[Tensor, ...]:
    t = Operands(*operands)
    return tuple(like(s) for s in (t.at_dst, t.at_src, t.h, t.w_in, t.w_mid, t.b_mid, t.w_out))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *operands, _b_out = inputs
    ctx.save_for_backward(*operands)


def _backward(ctx: Any, grad: Tensor) -> Grads:
    dat_dst, dat_src, dh, *dweights = gate_backward(grad, *ctx.saved_tensors)
    return dat_dst, dat_src, dh, None, None, None, None, None, *dweights, grad.sum().reshape(1)


gate.register_autograd(_backward, setup_context=_setup)
