"""Triton kernels of the edge gate: the backward passes, without atomics.

Names and weights: :mod:`common.sparse.gate.triton_forward`.  z, u and y are recomputed in each of
three launches.  The pair features are even in (i, j), so one kernel gives the node gradients by
destination and, through the reverse CSR, by source: a program owns BR nodes and adds up the tiles
of their edges by a product with the 0/1 matrix of ownership.  The gradients of the weights are
sums over all edges: a fixed number of programs sum fixed tiles, and the launcher adds their results
in order.
"""

# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

from common.sparse.gate.triton_forward import first_layer, node_rows
from common.sparse.triton_math import gelu, gelu_slope


@triton.jit
def _hidden(
    z,
    grad,
    w_mid,
    b_mid,
    w_out,
    BM: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """(BE, BM) gradients of z and of y, and u and gelu(y), from the gradient (BE,) of the gate."""
    column = tl.arange(0, BM)
    u = gelu(z)
    w = tl.load(w_mid + column[:, None] * BM + column[None, :])  # [in, out]
    y = tl.dot(u, w, input_precision=PRECISION, out_dtype=ACC) + tl.load(b_mid + column)[None, :]
    dy = grad[:, None] * tl.load(w_out + column)[None, :] * gelu_slope(y)
    du = tl.dot(dy, tl.trans(w), input_precision=PRECISION, out_dtype=ACC)
    return du * gelu_slope(z), dy, u, gelu(y)


@triton.jit
def gate_backward_nodes(
    grad,  # (E,)
    h,
    at_own,  # (N, M): at_dst by destination, at_src by source
    at_other,
    own_index,  # (E,): dst by destination, src by source
    other_index,
    ptr,  # (N + 1,) of the own nodes
    order,  # (E,) edges in order of the own nodes, unread by destination
    w_in,
    w_mid,
    b_mid,
    w_out,
    dat_own,  # (N, M), written
    dh,  # (N, F), written, or added to if ADD
    num_nodes,
    F: tl.constexpr,
    M: tl.constexpr,
    FP: tl.constexpr,
    BF: tl.constexpr,
    BG: tl.constexpr,
    BM: tl.constexpr,
    BE: tl.constexpr,
    BR: tl.constexpr,
    REVERSE: tl.constexpr,
    ADD: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):
    first_row = tl.program_id(0).to(tl.int64) * BR
    rows = first_row + tl.arange(0, BR)
    column = tl.arange(0, BM)
    feature = tl.program_id(1) * BG + tl.arange(0, BG)
    begin = tl.load(ptr + first_row).to(tl.int64)
    end = tl.load(ptr + tl.minimum(first_row + BR, num_nodes)).to(tl.int64)
    dat = tl.zeros((BR, BM), ACC)
    dh_rows = tl.zeros((BR, BG), ACC)
    for start in range(begin, end, BE):
        edge = start + tl.arange(0, BE).to(tl.int64)
        valid = edge < end
        if REVERSE:
            edge = tl.load(order + edge, mask=valid, other=0).to(tl.int64)
        a = tl.load(own_index + edge, mask=valid, other=0).to(tl.int64)
        b = tl.load(other_index + edge, mask=valid, other=0).to(tl.int64)
        g = tl.load(grad + edge, mask=valid, other=0.0)
        z = first_layer(h, at_own, at_other, w_in, a, b, valid, F, M, FP, BF, BM, ACC, PRECISION)
        dz, _dy, _u, _g = _hidden(z, g, w_mid, b_mid, w_out, BM, ACC, PRECISION)
        owns = ((rows[:, None] == a[None, :]) & valid[None, :]).to(ACC)  # [BR, BE]
        dat += tl.dot(owns, dz, input_precision=PRECISION, out_dtype=ACC)

        at_w = feature[None, :] * BM + column[:, None]  # [BM, BG], transposed
        w_diff, w_prod = tl.load(w_in + at_w), tl.load(w_in + FP * BM + at_w)
        ddiff = tl.dot(dz, w_diff, input_precision=PRECISION, out_dtype=ACC)
        dprod = tl.dot(dz, w_prod, input_precision=PRECISION, out_dtype=ACC)
        h_a, h_b = node_rows(h, a, valid, feature, F), node_rows(h, b, valid, feature, F)
        ddiff = tl.where(h_a > h_b, ddiff, tl.where(h_a < h_b, -ddiff, 0.0))
        dh_edge = ddiff + dprod * h_b
        dh_rows += tl.dot(owns, dh_edge, input_precision=PRECISION, out_dtype=ACC)
    live = (rows < num_nodes)[:, None]
    if tl.program_id(1) == 0:
        tl.store(dat_own + rows[:, None] * M + column[None, :], dat, live & (column < M)[None, :])
    at = dh + rows[:, None] * F + feature[None, :]
    mask = live & (feature < F)[None, :]
    if ADD:
        dh_rows += tl.load(at, mask=mask, other=0.0)
    tl.store(at, dh_rows, mask=mask)


@triton.jit
def gate_backward_weights(
    grad,  # (E,)
    h,
    at_dst,
    at_src,
    src,
    dst,
    w_in,
    w_mid,
    b_mid,
    w_out,
    dw_in,  # (programs, 2, FP, BM), written
    dw_mid,  # (programs, BM, BM), written, [in, out]
    db_mid,  # (programs, BM), written
    dw_out,  # (programs, BM), written
    num_edges,
    F: tl.constexpr,
    M: tl.constexpr,
    FP: tl.constexpr,
    BF: tl.constexpr,
    BG: tl.constexpr,
    BM: tl.constexpr,
    BE: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):
    column = tl.arange(0, BM)
    feature = tl.program_id(1) * BG + tl.arange(0, BG)
    diff_sum = tl.zeros((BG, BM), ACC)
    prod_sum = tl.zeros((BG, BM), ACC)
    mid_sum = tl.zeros((BM, BM), ACC)
    bias_sum = tl.zeros((BM,), ACC)
    out_sum = tl.zeros((BM,), ACC)
    program = tl.program_id(0).to(tl.int64)
    for start in range(program * BE, num_edges, tl.num_programs(0) * BE):
        edge = start + tl.arange(0, BE).to(tl.int64)
        valid = edge < num_edges
        i = tl.load(dst + edge, mask=valid, other=0).to(tl.int64)
        j = tl.load(src + edge, mask=valid, other=0).to(tl.int64)
        g = tl.load(grad + edge, mask=valid, other=0.0)
        z = first_layer(h, at_dst, at_src, w_in, i, j, valid, F, M, FP, BF, BM, ACC, PRECISION)
        dz, dy, u, hidden = _hidden(z, g, w_mid, b_mid, w_out, BM, ACC, PRECISION)
        mid_sum += tl.dot(tl.trans(u), dy, input_precision=PRECISION, out_dtype=ACC)
        bias_sum += tl.sum(dy, 0)
        out_sum += tl.sum(hidden * g[:, None], 0)
        h_i, h_j = node_rows(h, i, valid, feature, F), node_rows(h, j, valid, feature, F)
        diff = tl.trans(tl.abs(h_i - h_j))
        diff_sum += tl.dot(diff, dz, input_precision=PRECISION, out_dtype=ACC)
        prod = tl.trans(h_i * h_j)
        prod_sum += tl.dot(prod, dz, input_precision=PRECISION, out_dtype=ACC)
    at_w = program * 2 * FP * BM + feature[:, None] * BM + column[None, :]
    tl.store(dw_in + at_w, diff_sum)
    tl.store(dw_in + FP * BM + at_w, prod_sum)
    if tl.program_id(1) == 0:
        at_mid = (program * BM + column[:, None]) * BM + column[None, :]
        tl.store(dw_mid + at_mid, mid_sum)
        tl.store(db_mid + program * BM + column, bias_sum)
        tl.store(dw_out + program * BM + column, out_sum)
