"""Triton kernels over the rows of a CSR matrix: weighted sums, edge products, log-softmax.

========================= =====================================================================
:func:`gather_sum`        ``out_r = sum_p weight_e dense[col_e]`` over the entries p of row r
:func:`gather_dot`        ``out_e = a[row_e] . b[col_e]`` for every edge
:func:`log_softmax`       over the in-edges of each node, per column
:func:`log_softmax_grad`  ``dl_e = g_e - exp(out_e) sum of g over the row``
========================= =====================================================================

Together they are ``spmm`` and ``edge_log_softmax`` with their gradients.  A program walks the
entries of a row in steps of BK; every slot keeps its own sums, merged at the end of the row.  Sizes
without B in their name are true sizes, those with B powers of two that hold them; sums are in ACC.
"""

# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

from common.sparse.triton_math import finite_shift


@triton.jit
def gather_sum(
    ptr,  # (N + 1,)
    order,  # (E,) edge of every entry if ORDERED, otherwise the entry itself
    col,  # (E,) by edge
    weight,  # (E,) by edge
    dense,  # (N, R)
    out,  # (N, R), written
    R: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
    ORDERED: tl.constexpr,
    ACC: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BD + tl.arange(0, BD)
    begin, end = tl.load(ptr + row).to(tl.int64), tl.load(ptr + row + 1).to(tl.int64)
    total = tl.zeros((BK, BD), ACC)
    for start in range(begin, end, BK):
        edge = start + tl.arange(0, BK).to(tl.int64)
        valid = edge < end
        if ORDERED:
            edge = tl.load(order + edge, mask=valid, other=0).to(tl.int64)
        node = tl.load(col + edge, mask=valid, other=0).to(tl.int64)
        w = tl.load(weight + edge, mask=valid, other=0.0)
        mask = valid[:, None] & (column < R)[None, :]
        total += w[:, None] * tl.load(dense + node[:, None] * R + column, mask=mask, other=0.0)
    tl.store(out + row * R + column, tl.sum(total, 0), mask=column < R)


@triton.jit
def gather_dot(
    row,  # (E,)
    col,  # (E,)
    a,  # (N, R)
    b,  # (N, R)
    out,  # (E,), written
    num_edges,
    R: tl.constexpr,
    BE: tl.constexpr,
    BD: tl.constexpr,
    ACC: tl.constexpr,
):
    edge = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    valid = edge < num_edges
    i = tl.load(row + edge, mask=valid, other=0).to(tl.int64)
    j = tl.load(col + edge, mask=valid, other=0).to(tl.int64)
    total = tl.zeros((BE, BD), ACC)
    for first in range(0, R, BD):
        column = first + tl.arange(0, BD)
        mask = valid[:, None] & (column < R)[None, :]
        a_i = tl.load(a + i[:, None] * R + column[None, :], mask=mask, other=0.0)
        total += a_i * tl.load(b + j[:, None] * R + column[None, :], mask=mask, other=0.0)
    tl.store(out + edge, tl.sum(total, 1), mask=valid)


@triton.jit
def log_softmax(
    logits,  # (E, H)
    ptr,  # (N + 1,)
    out,  # (E, H), written
    H: tl.constexpr,
    BK: tl.constexpr,
    BH: tl.constexpr,
    ACC: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BH + tl.arange(0, BH)
    begin, end = tl.load(ptr + row).to(tl.int64), tl.load(ptr + row + 1).to(tl.int64)
    peak = tl.full((BK, BH), float("-inf"), ACC)
    total = tl.zeros((BK, BH), ACC)
    for start in range(begin, end, BK):
        edge = start + tl.arange(0, BK).to(tl.int64)
        mask = (edge < end)[:, None] & (column < H)[None, :]
        at = edge[:, None] * H + column[None, :]
        logit = tl.load(logits + at, mask=mask, other=float("-inf"))
        higher = tl.maximum(peak, logit)
        shift = finite_shift(higher)
        total = total * tl.exp(peak - shift) + tl.exp(logit - shift)
        peak = higher
    shift = finite_shift(tl.max(peak, 0))
    total = tl.sum(total * tl.exp(peak - shift[None, :]), 0)
    level = shift + tl.log(tl.where(total == 0.0, 1.0, total))
    for start in range(begin, end, BK):
        edge = start + tl.arange(0, BK).to(tl.int64)
        mask = (edge < end)[:, None] & (column < H)[None, :]
        at = edge[:, None] * H + column[None, :]
        logit = tl.load(logits + at, mask=mask, other=0.0)
        tl.store(out + at, logit - level[None, :], mask=mask)


@triton.jit
def log_softmax_grad(
    grad,  # (E, H)
    log_weight,  # (E, H), the result of log_softmax
    ptr,  # (N + 1,)
    out,  # (E, H), written
    H: tl.constexpr,
    BK: tl.constexpr,
    BH: tl.constexpr,
    ACC: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BH + tl.arange(0, BH)
    begin, end = tl.load(ptr + row).to(tl.int64), tl.load(ptr + row + 1).to(tl.int64)
    total = tl.zeros((BK, BH), ACC)
    for start in range(begin, end, BK):
        edge = start + tl.arange(0, BK).to(tl.int64)
        mask = (edge < end)[:, None] & (column < H)[None, :]
        total += tl.load(grad + edge[:, None] * H + column[None, :], mask=mask, other=0.0)
    row_sum = tl.sum(total, 0)
    for start in range(begin, end, BK):
        edge = start + tl.arange(0, BK).to(tl.int64)
        mask = (edge < end)[:, None] & (column < H)[None, :]
        at = edge[:, None] * H + column[None, :]
        g = tl.load(grad + at, mask=mask, other=0.0)
        weight = tl.exp(tl.load(log_weight + at, mask=mask, other=0.0))
        tl.store(out + at, g - weight * row_sum[None, :], mask=mask)
