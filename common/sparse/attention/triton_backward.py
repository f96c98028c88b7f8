"""Triton kernels of neighbour attention: the backward passes, without atomics.

With ``pull_ih = w_x[h]^T ddx_i`` and ``da_eh = dout_ih . v_jh + pull_ih . (x_j - x_i)``, the
gradient of a logit is ``a_eh (da_eh - delta_ih)`` where ``delta_ih = sum_e a_eh da_eh`` is
``dout_ih . out_ih + pull_ih . moment_ih`` (Dao et al. 2022, FlashAttention, appendix B).  The
weights a are recomputed from the log-sum-exp.  The pass by destination gives the gradients of q,
gate and bias and leaves ``delta`` and ``pull`` for the pass by source, which walks the reverse CSR
and gives those of k, v and x; that of w_x is a sum over nodes of ``ddx_i`` times ``moment_ih``.

Layout and names: :mod:`common.sparse.attention.triton_forward`.
"""

# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def attention_backward_by_destination(
    grad_out,  # (N, H, D)
    grad_dx,  # (N, C)
    q,
    k,
    v,
    x,
    src,
    ptr,
    w_x,  # (H, C, C)
    gate,
    bias,
    out,
    lse,
    moment,
    dq,  # (N, H, D), written
    dgate,  # (head blocks, E), written: sums over the heads of a block
    dbias,  # (E, H), written
    delta,  # (N, H), written for the pass by source
    pull,  # (N, H, C), written for the pass by source
    num_nodes,
    num_edges,
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
    dout_i = tl.load(grad_out + at_node, mask=mask_node, other=0.0).to(ACC)
    out_i = tl.load(out + at_node, mask=mask_node, other=0.0).to(ACC)
    mask_x = live[:, None] & (axis < C)[None, :]
    at_x = rows[:, None] * C + axis[None, :]
    x_i = tl.load(x + at_x, mask=mask_x, other=0.0).to(ACC)
    ddx_i = tl.load(grad_dx + at_x, mask=mask_x, other=0.0).to(ACC)

    at_w = (heads[:, None, None] * C + axis[None, :, None]) * C + axis[None, None, :]
    square = (axis < C)[None, :, None] & (axis < C)[None, None, :]
    w = tl.load(w_x + at_w, mask=(heads < H)[:, None, None] & square, other=0.0).to(ACC)
    pull_i = tl.sum(ddx_i[:, None, :, None] * w[None], 2)  # [BR, BH, BC]
    at_head = rows[:, None] * H + heads[None, :]
    mask_head = live[:, None] & (heads < H)[None, :]
    at_moment = at_head[:, :, None] * C + axis[None, None, :]
    mask_moment = mask_head[:, :, None] & (axis < C)[None, None, :]
    moment_i = tl.load(moment + at_moment, mask=mask_moment, other=0.0)
    delta_i = tl.sum(dout_i * out_i, 2) + tl.sum(pull_i * moment_i, 2)
    tl.store(pull + at_moment, pull_i, mask=mask_moment)
    tl.store(delta + at_head, delta_i, mask=mask_head)
    lse_i = tl.load(lse + at_head, mask=mask_head, other=float("inf"))

    dq_i = tl.zeros((BR, BK, BH, BD), ACC)
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
        at_b = edge[:, :, None] * H + heads[None, None, :]
        mask_b = valid[:, :, None] & (heads < H)[None, None, :]
        if HAS_GATE:
            logit += (beta * tl.load(gate + edge, mask=valid, other=0.0).to(ACC))[:, :, None]
        if HAS_BIAS:
            logit += tl.load(bias + at_b, mask=mask_b, other=0.0).to(ACC)
        logit = tl.where(valid[:, :, None], logit, float("-inf"))
        weight = tl.exp(logit - lse_i[:, None])
        step = x_j - x_i[:, None]  # [BR, BK, BC]
        da = tl.sum(dout_i[:, None] * v_j, 3) + tl.sum(pull_i[:, None] * step[:, :, None, :], 3)
        dlogit = weight * (da - delta_i[:, None])
        dq_i += dlogit[:, :, :, None] * k_j
        if HAS_GATE:
            at_gate = tl.program_id(1).to(tl.int64) * num_edges + edge
            tl.store(dgate + at_gate, beta * tl.sum(dlogit, 2), mask=valid)
        if HAS_BIAS:
            tl.store(dbias + at_b, dlogit, mask=mask_b)
    dq_i = tl.sum(dq_i, 1) * SCALE
    tl.store(dq + at_node, dq_i.to(dq.dtype.element_ty), mask=mask_node)


@triton.jit
def attention_backward_by_source(
    grad_out,
    q,
    k,
    v,
    x,
    dst,  # (E,)
    rev_ptr,  # (N + 1,)
    rev_edge,  # (E,)
    gate,
    bias,
    lse,
    delta,
    pull,
    dk,  # (N, H, D), written
    dv,  # (N, H, D), written
    dx,  # (head blocks, N, C), written: sums over the heads of a block
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
    begin = tl.load(rev_ptr + rows, mask=live, other=0).to(tl.int64)
    degree = (tl.load(rev_ptr + rows + 1, mask=live, other=0).to(tl.int64) - begin).to(tl.int32)
    beta = tl.zeros((1,), ACC) + beta_high + beta_low

    width = tl.arange(0, BD)
    feature = heads[:, None] * D + width[None, :]  # [BH, BD]
    has_feature = (heads < H)[:, None] & (width < D)[None, :]
    at_node = rows[:, None, None] * (H * D) + feature[None]  # [BR, BH, BD]
    mask_node = live[:, None, None] & has_feature[None]
    k_j = tl.load(k + at_node, mask=mask_node, other=0.0).to(ACC) * SCALE
    v_j = tl.load(v + at_node, mask=mask_node, other=0.0).to(ACC)
    mask_x = live[:, None] & (axis < C)[None, :]
    at_x_j = rows[:, None] * C + axis[None, :]
    x_j = tl.load(x + at_x_j, mask=mask_x, other=0.0).to(ACC)

    dk_j = tl.zeros((BR, BK, BH, BD), ACC)
    dv_j = tl.zeros((BR, BK, BH, BD), ACC)
    dx_j = tl.zeros((BR, BK, BH, BC), ACC)
    for start in range(0, tl.max(degree, 0), BK):
        slot = start + tl.arange(0, BK)
        valid = slot[None, :] < degree[:, None]  # [BR, BK]
        edge = tl.load(rev_edge + begin[:, None] + slot[None, :], mask=valid, other=0).to(tl.int64)
        node = tl.load(dst + edge, mask=valid, other=0).to(tl.int64)
        at = node[:, :, None, None] * (H * D) + feature[None, None]
        mask = valid[:, :, None, None] & has_feature[None, None]
        q_i = tl.load(q + at, mask=mask, other=0.0).to(ACC)
        dout_i = tl.load(grad_out + at, mask=mask, other=0.0).to(ACC)
        at_step = node[:, :, None] * C + axis[None, None, :]
        mask_step = valid[:, :, None] & (axis < C)[None, None, :]
        x_i = tl.load(x + at_step, mask=mask_step, other=0.0).to(ACC)
        at_head = node[:, :, None] * H + heads[None, None, :]
        mask_b = valid[:, :, None] & (heads < H)[None, None, :]
        lse_i = tl.load(lse + at_head, mask=mask_b, other=float("inf"))
        delta_i = tl.load(delta + at_head, mask=mask_b, other=0.0)
        at_pull = at_head[:, :, :, None] * C + axis[None, None, None, :]
        mask_pull = mask_b[:, :, :, None] & (axis < C)[None, None, None, :]
        pull_i = tl.load(pull + at_pull, mask=mask_pull, other=0.0)  # [BR, BK, BH, BC]

        logit = tl.sum(q_i * k_j[:, None], 3)  # [BR, BK, BH]
        if HAS_GATE:
            logit += (beta * tl.load(gate + edge, mask=valid, other=0.0).to(ACC))[:, :, None]
        if HAS_BIAS:
            at_b = edge[:, :, None] * H + heads[None, None, :]
            logit += tl.load(bias + at_b, mask=mask_b, other=0.0).to(ACC)
        weight = tl.exp(logit - lse_i)
        step = x_j[:, None] - x_i  # [BR, BK, BC]
        da = tl.sum(dout_i * v_j[:, None], 3) + tl.sum(pull_i * step[:, :, None, :], 3)
        dlogit = weight * (da - delta_i)
        dk_j += dlogit[:, :, :, None] * q_i
        dv_j += weight[:, :, :, None] * dout_i
        dx_j += weight[:, :, :, None] * pull_i
    dk_j = tl.sum(dk_j, 1) * SCALE
    dv_j = tl.sum(dv_j, 1)
    tl.store(dk + at_node, dk_j.to(dk.dtype.element_ty), mask=mask_node)
    tl.store(dv + at_node, dv_j.to(dv.dtype.element_ty), mask=mask_node)

    # As a destination the node enters every displacement of its row with minus one.
    at_head = rows[:, None] * H + heads[None, :]
    mask_head = live[:, None] & (heads < H)[None, :]
    empty = tl.load(lse + at_head, mask=mask_head, other=float("inf")) == float("inf")
    at_pull = at_head[:, :, None] * C + axis[None, None, :]
    mask_pull = mask_head[:, :, None] & (axis < C)[None, None, :]
    own = tl.load(pull + at_pull, mask=mask_pull, other=0.0)
    own = tl.where(empty[:, :, None], 0.0, own)
    dx_j = tl.sum(tl.sum(dx_j, 1) - own, 1)  # [BR, BC]
    at_dx = tl.program_id(1).to(tl.int64) * num_nodes * C + at_x_j
    tl.store(dx + at_dx, dx_j, mask=live[:, None] & (axis < C)[None, :])


@triton.jit
def step_weight_gradient(
    grad_dx,  # (N, C)
    moment,  # (N, H C)
    partial,  # (programs, C, H C), written
    num_nodes,
    C: tl.constexpr,
    HC: tl.constexpr,
    BN: tl.constexpr,
    BC: tl.constexpr,
    BHC: tl.constexpr,
    ACC: tl.constexpr,
):
    axis = tl.arange(0, BC)
    column = tl.arange(0, BHC)
    gradient = tl.zeros((BC, BHC), ACC)
    stride = tl.num_programs(0) * BN
    for start in range(tl.program_id(0) * BN, num_nodes, stride):
        nodes = start + tl.arange(0, BN).to(tl.int64)
        live = (nodes < num_nodes)[:, None]
        at_x = nodes[:, None] * C + axis[None, :]
        ddx = tl.load(grad_dx + at_x, mask=live & (axis < C)[None, :], other=0.0).to(ACC)
        at_m = nodes[:, None] * HC + column[None, :]
        m = tl.load(moment + at_m, mask=live & (column < HC)[None, :], other=0.0)
        gradient += tl.sum(ddx[:, :, None] * m[:, None, :], 0)
    at = tl.program_id(0) * (C * HC) + axis[:, None] * HC + column[None, :]
    tl.store(partial + at, gradient, mask=(axis < C)[:, None] & (column < HC)[None, :])
