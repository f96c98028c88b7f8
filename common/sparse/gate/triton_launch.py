"""Padding, block sizes and launches of the edge-gate kernels in Triton.

Block sizes are functions of the shapes alone (:mod:`common.sparse.tiles`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.sparse.tiles import accumulator, contiguous, on_device, power_of_two, triton_type

MAX_HIDDEN = 64  # backward with 128 hidden units needs 426 KB of shared memory, an H200 has 227
FORWARD_EDGES = 64
SHARED_MEMORY = 160_000  # bytes a block may use, for backward with 64 hidden units
TILE_EDGES = 32  # of backward; compiled for sm_90 it takes 147 KB, with 64 edges 262 KB
OWN_ROWS = 16  # nodes of a program of the node gradients
PARTIALS = 256  # partial sums of the weight gradients, at most
LEAST = 16  # every side of a matrix product in Triton


class Operands(NamedTuple):
    """The arguments of ``edgewise::triton_edge_gate`` in their order, without the last, b_out.

    Node-wise parts and weights as in :class:`common.sparse.gate.inputs.GateParts`.
    """

    at_dst: Tensor
    at_src: Tensor
    h: Tensor
    src: Tensor
    dst: Tensor
    ptr: Tensor
    rev_ptr: Tensor
    rev_edge: Tensor
    w_in: Tensor
    w_mid: Tensor
    b_mid: Tensor
    w_out: Tensor


@dataclass(frozen=True)
class _Weights:
    """The layers, transposed and padded with zeros as the kernels need them."""

    w_in: Tensor  # (2, FP, BM)
    w_mid: Tensor  # (BM, BM)
    b_mid: Tensor  # (BM,)
    w_out: Tensor  # (BM,)
    block: int  # BF, features of a step of the first layer
    wide: int  # BG, features of a program of the gradients

    @staticmethod
    def pad(features: int, w_in: Tensor, w_mid: Tensor, b_mid: Tensor, w_out: Tensor) -> _Weights:
        hidden = w_mid.shape[0]
        padded = max(power_of_two(hidden), LEAST)
        block = min(max(power_of_two(features), LEAST), 32)
        wide = min(max(power_of_two(features), LEAST), 64)
        total = -(-features // wide) * wide
        first = w_in.new_zeros(2, total, padded)
        first[:, :features, :hidden] = w_in.reshape(hidden, 2, features).permute(1, 2, 0)
        mid = w_in.new_zeros(padded, padded)
        mid[:hidden, :hidden] = w_mid.t()
        last = w_in.new_zeros(2, padded)
        last[0, :hidden], last[1, :hidden] = b_mid, w_out.reshape(hidden)
        return _Weights(first, mid, last[0], last[1], block, wide)

    @property
    def arguments(self) -> tuple[Tensor, ...]:
        return self.w_in, self.w_mid, self.b_mid, self.w_out


def gate_forward(operands: Operands, b_out: Tensor) -> Tensor:
    """(E,) gates."""
    from common.sparse.gate import triton_forward as kernels

    src, dst = operands.src, operands.dst
    at_dst, at_src, h = contiguous(*operands[:3])
    weights = _Weights.pad(h.shape[1], *operands[8:])
    num_edges = src.numel()
    gate = h.new_empty(num_edges)
    if num_edges:
        with on_device(h):
            kernels.gate_forward[(-(-num_edges // FORWARD_EDGES),)](
                *(h, at_dst, at_src, src, dst, *weights.arguments, b_out, gate, num_edges),
                *(h.shape[1], at_dst.shape[1], weights.w_in.shape[1], weights.block),
                *(weights.w_mid.shape[0], FORWARD_EDGES, *_arithmetic(h)),
                num_warps=4,
                num_stages=1,
            )
    return gate


def gate_backward(grad: Tensor, operands: Operands) -> tuple[Tensor, ...]:
    """Gradients of at_dst, at_src, h, w_in, w_mid, b_mid and w_out."""
    from common.sparse.gate import triton_backward as kernels

    _, _, _, src, dst, ptr, rev_ptr, rev_edge, w_in, w_mid, b_mid, w_out = operands
    grad, at_dst, at_src, h = contiguous(grad, *operands[:3])
    nodes, features = h.shape
    hidden, num_edges = w_mid.shape[0], src.numel()
    weights = _Weights.pad(features, w_in, w_mid, b_mid, w_out)
    total, padded = weights.w_in.shape[1:]
    programs = min(PARTIALS, -(-num_edges // TILE_EDGES))
    dat_dst, dat_src, dh = (torch.empty_like(t) for t in (at_dst, at_src, h))
    partials = [h.new_empty(programs, *t.shape) for t in weights.arguments]
    widths = (features, hidden, total, weights.block, weights.wide, padded, TILE_EDGES)
    blocks = total // weights.wide
    with on_device(h):
        if nodes:
            for reverse, nodes_of, own, own_index, other, other_index, dat in (
                (False, ptr, at_dst, dst, at_src, src, dat_dst),
                (True, rev_ptr, at_src, src, at_dst, dst, dat_src),
            ):
                kernels.gate_backward_nodes[(-(-nodes // OWN_ROWS), blocks)](
                    *(grad, h, own, other, own_index, other_index, nodes_of, rev_edge),
                    *(*weights.arguments, dat, dh, nodes),
                    *(*widths, OWN_ROWS, reverse, reverse, *_arithmetic(h)),
                    num_warps=8,
                    num_stages=1,
                )
        if num_edges:
            kernels.gate_backward_weights[(programs, blocks)](
                *(grad, h, at_dst, at_src, src, dst, *weights.arguments, *partials, num_edges),
                *(*widths, *_arithmetic(h)),
                num_warps=8,
                num_stages=1,
            )
    dw_in, dw_mid, db_mid, dw_out = (t.sum(0) for t in partials)
    dw_in = dw_in[:, :features, :hidden].permute(2, 0, 1).reshape(w_in.shape)
    dw_mid = dw_mid[:hidden, :hidden].t().contiguous()
    dw_out = dw_out[:hidden].reshape(w_out.shape)
    return dat_dst, dat_src, dh, dw_in, dw_mid, db_mid[:hidden], dw_out


def _arithmetic(h: Tensor) -> tuple[Any, str]:
    exact = accumulator(h) == torch.float64
    return triton_type(h.dtype), "ieee" if exact else "tf32x3"
