"""Triton kernels of neighbour attention: the forward pass.

The formulas stand in :mod:`common.sparse.attention.reference`.  A program owns BR nodes and BH
heads and walks their edges in steps of BK edges per node: arrays are (BR, BK, BH, BD), and every
one of the BR x BK slots keeps a softmax of its own (running maximum, sum and weighted sums), so
that the loop holds no reduction over edges; the slots are merged once at the end, by rescaling to a
common maximum.  All sums are in ``ACC`` (float32, or float64 for float64 inputs), whatever the
inputs are.

Kept for backward: the log-sum-exp (N, H), plus infinity in rows without weight so that recomputed
weights are 0 there, and the mean displacement ``sum_e a_eh (x_j - x_i)`` (N, H, C), from which
:func:`coordinate_step` takes ``dx_i = sum_h w_x[h] moment_ih``.

Sizes without B in their name are true sizes, those with B powers of two that hold them; index
arithmetic is 64-bit.  Needs Triton at import: only the
launches import it.
"""

# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

from common.sparse.triton_math import finite_shift


@triton.jit
def attention_forward(
    q,  # (N, H, D)
    k,  # (N, H, D)
    v,  # (N, H, D)
    x,  # (N, C)
    src,  # (E,)
    ptr,  # (N + 1,)
    gate,  # (E,) or unread
    bias,  # (E, H) or unread
    out,  # (N, H, D), written
    lse,  # (N, H), written
    moment,  # (N, H, C), written
    num_nodes,
    beta_high,
    beta_low,
    SCALE: tl.constexpr,
    H: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
    BR: tl.constexpr,
    BK: tl.constexpr,
    BH: tl.constexpr,
    BD: tl.constexpr,
    BC: tl.constexpr,
    HAS_GATE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACC: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)
    heads = tl.program_id(1) * BH + tl.arange(0, BH)
    axis = tl.arange(0, BC)
    live = rows < num_nodes
    begin = tl.load(ptr + rows, mask=live, other=0).to(tl.int64)
    degree = (tl.load(ptr + rows + 1, mask=live, other=0).to(tl.int64) - begin).to(tl.int32)
    beta = tl.zeros((1,), ACC) + beta_high + beta_low

    width = tl.arange(0, BD)
    feature = heads[:, None] * D + width[None, :]  # [BH, BD]
    has_feature = (heads < H)[:, None] & (width < D)[None, :]
    at_node = rows[:, None, None] * (H * D) + feature[None]  # [BR, BH, BD]
    mask_node = live[:, None, None] & has_feature[None]
    q_i = tl.load(q + at_node, mask=mask_node, other=0.0).to(ACC) * SCALE
    mask_x = live[:, None] & (axis < C)[None, :]
    x_i = tl.load(x + rows[:, None] * C + axis[None, :], mask=mask_x, other=0.0).to(ACC)

    peak = tl.full((BR, BK, BH), float("-inf"), ACC)
    total = tl.zeros((BR, BK, BH), ACC)
    value = tl.zeros((BR, BK, BH, BD), ACC)
    shift_x = tl.zeros((BR, BK, BH, BC), ACC)
    for start in range(0, tl.max(degree, 0), BK):
        slot = start + tl.arange(0, BK)
        valid = slot[None, :] < degree[:, None]  # [BR, BK]
        edge = begin[:, None] + slot[None, :]
        node = tl.load(src + edge, mask=valid, other=0).to(tl.int64)
        at = node[:, :, None, None] * (H * D) + feature[None, None]
        mask = valid[:, :, None, None] & has_feature[None, None]
        k_j = tl.load(k + at, mask=mask, other=0.0).to(ACC)
        v_j = tl.load(v + at, mask=mask, other=0.0).to(ACC)
        at_step = node[:, :, None] * C + axis[None, None, :]
        mask_step = valid[:, :, None] & (axis < C)[None, None, :]
        x_j = tl.load(x + at_step, mask=mask_step, other=0.0).to(ACC)

        logit = tl.sum(q_i[:, None] * k_j, 3)  # [BR, BK, BH]
        if HAS_GATE:
            logit += (beta * tl.load(gate + edge, mask=valid, other=0.0).to(ACC))[:, :, None]
        if HAS_BIAS:
            mask_b = valid[:, :, None] & (heads < H)[None, None, :]
            at_b = edge[:, :, None] * H + heads[None, None, :]
            logit += tl.load(bias + at_b, mask=mask_b, other=0.0).to(ACC)
        logit = tl.where(valid[:, :, None], logit, float("-inf"))

        higher = tl.maximum(peak, logit)
        shift = finite_shift(higher)
        weight = tl.exp(logit - shift)
        decay = tl.exp(peak - shift)
        peak = higher
        total = total * decay + weight
        value = value * decay[:, :, :, None] + weight[:, :, :, None] * v_j
        step = x_j - x_i[:, None]  # [BR, BK, BC]
        shift_x = shift_x * decay[:, :, :, None] + weight[:, :, :, None] * step[:, :, None, :]

    top = tl.max(peak, 1)  # [BR, BH]
    shift = finite_shift(top)
    merge = tl.exp(peak - shift[:, None, :])
    total = tl.sum(total * merge, 1)
    positive = tl.where(total == 0.0, 1.0, total)
    inverse = 1.0 / positive
    value = tl.sum(value * merge[:, :, :, None], 1) * inverse[:, :, None]
    shift_x = tl.sum(shift_x * merge[:, :, :, None], 1) * inverse[:, :, None]
    tl.store(out + at_node, value.to(out.dtype.element_ty), mask=mask_node)
    at_head = rows[:, None] * H + heads[None, :]
    mask_head = live[:, None] & (heads < H)[None, :]
    level = tl.where(total == 0.0, float("inf"), shift + tl.log(positive))
    tl.store(lse + at_head, level, mask=mask_head)
    at_moment = at_head[:, :, None] * C + axis[None, None, :]
    mask_moment = mask_head[:, :, None] & (axis < C)[None, None, :]
    tl.store(moment + at_moment, shift_x, mask=mask_moment)


@triton.jit
def coordinate_step(
    w_x,  # (C, H C): w_x[h, c, d] at [c, h C + d]
    moment,  # (N, H C)
    dx,  # (N, C), written
    num_nodes,
    C: tl.constexpr,
    HC: tl.constexpr,
    BN: tl.constexpr,
    BC: tl.constexpr,
    BHC: tl.constexpr,
    ACC: tl.constexpr,
):
    nodes = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    axis = tl.arange(0, BC)
    column = tl.arange(0, BHC)
    mask_w = (axis < C)[:, None] & (column < HC)[None, :]
    w = tl.load(w_x + axis[:, None] * HC + column[None, :], mask=mask_w, other=0.0).to(ACC)
    mask_m = (nodes < num_nodes)[:, None] & (column < HC)[None, :]
    m = tl.load(moment + nodes[:, None] * HC + column[None, :], mask=mask_m, other=0.0)
    step = tl.sum(w[None] * m[:, None, :], 2)  # [BN, BC]
    mask_x = (nodes < num_nodes)[:, None] & (axis < C)[None, :]
    tl.store(dx + nodes[:, None] * C + axis[None, :], step.to(dx.dtype.element_ty), mask=mask_x)
