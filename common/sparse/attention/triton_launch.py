"""Shapes, block sizes and launches of the attention kernels in Triton.

Block sizes are functions of the shapes alone (:mod:`common.sparse.tiles`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.sparse.attention.inputs import Operands, Result
from common.sparse.tiles import (
    accumulator,
    contiguous,
    on_device,
    power_of_two,
    split_float,
    triton_type,
)

WARP_ELEMENTS = 512  # of one (slots, heads, width) array per warp: 16 registers a thread
HEAD_BLOCK = 512  # most elements of one node row in a program; further heads go to other programs
FILL = 16384  # rows from which single-warp programs of several rows still fill a large device
NODE_TILE = 4096  # elements of a (nodes, C, H C) array in the kernels over nodes
PARTIALS = 256  # partial sums over nodes; fixed, so that the order of summation is


@dataclass(frozen=True)
class Tile:
    """Rows and edges per row of a program, powers of two over heads and widths, and warps."""

    rows: int
    slots: int
    heads: int
    width: int
    coords: int
    warps: int


def attention_tile(
    shape: torch.Size, coords: int, num_edges: int, *, ragged: bool, itemsize: int = 4
) -> Tile:
    """The tile for q of ``shape`` (N, H, D).

    One warp holds whole node rows wherever they fit, so that the loop needs no barrier.  Rows of
    in-edges have about equal length in kNN graphs: neighbours in order of the nodes share most of
    their edges, so a warp walks several of them in step and finds the other rows' neighbours in the
    first-level cache.  ``ragged`` rows (out-edges) are walked one at a time.
    """
    nodes, heads, width = shape
    block_width = power_of_two(width)
    block_heads = min(power_of_two(heads), max(HEAD_BLOCK // block_width, 1))
    row = block_heads * block_width
    warps = min(max(row * itemsize // 4 // WARP_ELEMENTS, 1), 8)
    slots = max(WARP_ELEMENTS * warps // row, 1)
    rows = 1 if ragged or nodes < FILL else min(slots, 4)
    slots = max(min(slots // rows, power_of_two(num_edges // max(nodes, 1))), 1)
    return Tile(rows, slots, block_heads, block_width, power_of_two(coords), warps)


def attention_forward(operands: Operands, tile: Tile | None = None) -> Result:
    """``out`` (N, H, D), ``dx`` (N, C), and for backward lse (N, H) and moment (N, H, C)."""
    from common.sparse.attention import triton_forward as kernels

    src, ptr, beta = operands.src, operands.ptr, operands.beta
    q, k, v, x, w_x, gate, bias = _contiguous(operands)
    nodes, heads, _width = q.shape
    coords = x.shape[1]
    wide = accumulator(q)
    out, dx = torch.empty_like(v), torch.empty_like(x)
    lse = q.new_empty((nodes, heads), dtype=wide)
    moment = q.new_empty((nodes, heads, coords), dtype=wide)
    if nodes == 0:
        return Result(out, dx, lse, moment)
    tile = tile or attention_tile(q.shape, coords, src.numel(), ragged=False)
    with on_device(q):
        kernels.attention_forward[_grid(q, tile)](
            *(q, k, v, x, src, ptr, _or(gate, q), _or(bias, q), out, lse, moment),
            *(nodes, *split_float(beta)),
            *_constants(q, coords, tile, gate, bias),
            num_warps=tile.warps,
        )
        step_tile = _node_tile(heads, coords)
        kernels.coordinate_step[(-(-nodes // step_tile[0]),)](
            *(w_x.permute(1, 0, 2).contiguous(), moment, dx, nodes),
            *(coords, heads * coords, *step_tile, triton_type(wide)),
        )
    return Result(out, dx, lse, moment)


def attention_backward(
    grad_out: Tensor,
    grad_dx: Tensor,
    operands: Operands,
    out: Tensor,
    lse: Tensor,
    moment: Tensor,
    tiles: tuple[Tile, Tile] | None = None,
) -> tuple[Tensor, ...]:
    """Gradients of q, k, v, x, w_x, gate and bias, the last two empty where these are None."""
    from common.sparse.attention import triton_backward as kernels

    _, _, _, _, src, dst, ptr, rev_ptr, rev_edge, _, _, beta, _ = operands
    grad_out, grad_dx = contiguous(grad_out, grad_dx)
    q, k, v, x, w_x, gate, bias = _contiguous(operands)
    nodes, heads, _width = q.shape
    coords, num_edges = x.shape[1], src.numel()
    wide = accumulator(q)
    by_dst, by_src = tiles or (
        attention_tile(q.shape, coords, num_edges, ragged=False),
        attention_tile(q.shape, coords, num_edges, ragged=True),
    )
    blocks = _grid(q, by_dst)[1]
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    dgate = lse.new_empty((blocks, 0 if gate is None else num_edges))
    dbias = lse.new_empty((0 if bias is None else num_edges, heads))
    dx = lse.new_empty((blocks, nodes, coords))
    delta, pull = torch.empty_like(lse), torch.empty_like(moment)
    step_tile = _node_tile(heads, coords)
    partials = min(PARTIALS, -(-nodes // step_tile[0]))
    dw = lse.new_empty((partials, coords, heads, coords))
    if nodes:
        with on_device(q):
            kernels.attention_backward_by_destination[_grid(q, by_dst)](
                *(grad_out, grad_dx, q, k, v, x, src, ptr, w_x, _or(gate, q), _or(bias, q)),
                *(out, lse, moment, dq, dgate, dbias, delta, pull),
                *(nodes, num_edges, *split_float(beta)),
                *_constants(q, coords, by_dst, gate, bias),
                num_warps=by_dst.warps,
            )
            kernels.attention_backward_by_source[_grid(q, by_src)](
                *(grad_out, q, k, v, x, dst, rev_ptr, rev_edge, _or(gate, q), _or(bias, q)),
                *(lse, delta, pull, dk, dv, dx, nodes, *split_float(beta)),
                *_constants(q, coords, by_src, gate, bias),
                num_warps=by_src.warps,
            )
            kernels.step_weight_gradient[(partials,)](
                *(grad_dx, moment, dw, nodes, coords, heads * coords),
                *(*step_tile, triton_type(wide)),
            )
    dw = dw.sum(0).permute(1, 0, 2).to(w_x.dtype, memory_format=torch.contiguous_format)
    return (
        *(dq, dk, dv, dx.sum(0).to(x.dtype), dw),
        dgate.sum(0).to(q.dtype if gate is None else gate.dtype),
        dbias.to(q.dtype if bias is None else bias.dtype),
    )


def _contiguous(t: Operands) -> list[Any]:
    """q, k, v, x, w_x, gate and bias."""
    return contiguous(t.q, t.k, t.v, t.x, t.w_x, t.gate, t.bias)


def _or(tensor: Tensor | None, unread: Tensor) -> Tensor:
    return unread if tensor is None else tensor


def _grid(q: Tensor, tile: Tile) -> tuple[int, int]:
    return -(-q.shape[0] // tile.rows), -(-q.shape[1] // tile.heads)


def _constants(
    q: Tensor, coords: int, tile: Tile, gate: Tensor | None, bias: Tensor | None
) -> tuple[Any, ...]:
    """Compile-time arguments that the attention kernels share, in their order."""
    return (
        *(q.shape[2] ** -0.5, q.shape[1], q.shape[2], coords),
        *(tile.rows, tile.slots, tile.heads, tile.width, tile.coords),
        *(gate is not None, bias is not None, triton_type(accumulator(q))),
    )


def _node_tile(heads: int, coords: int) -> tuple[int, int, int]:
    """Nodes, coordinates and columns of the kernels over nodes, as powers of two."""
    axis, columns = power_of_two(coords), power_of_two(heads * coords)
    return max(NODE_TILE // (axis * columns), 1), axis, columns
