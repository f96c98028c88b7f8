"""Triton kernels of the edge gate: the forward pass, by tiles of edges.

With ``z = at_dst[i] + at_src[j] + w_diff |h_i - h_j| + w_prod (h_i * h_j)``, ``u = gelu(z)`` and
``y = w_mid u + b_mid``, the gate of an edge is ``w_out . gelu(y) + b_out``.  A program holds BE
edges and the padded hidden width BM; features come in blocks of BF.  Nothing of an edge but its
gate is ever written.

Weights come padded with zeros: ``w_in`` (2, FP, BM) holds the two halves of the first layer,
transposed, FP a multiple of BF; ``w_mid`` (BM, BM) is transposed, b_mid and w_out are (BM,).
PRECISION is that of the products: ``tf32x3`` is close to float32 on tensor cores.
"""

# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

from common.sparse.triton_math import gelu


@triton.jit
def node_rows(h, node, valid, feature, F: tl.constexpr):
    """(BE, BF) features of nodes, 0 outside."""
    mask = valid[:, None] & (feature < F)[None, :]
    return tl.load(h + node[:, None] * F + feature[None, :], mask=mask, other=0.0)


@triton.jit
def first_layer(
    h,
    at_a,
    at_b,
    w_in,
    a,
    b,
    valid,
    F: tl.constexpr,
    M: tl.constexpr,
    FP: tl.constexpr,
    BF: tl.constexpr,
    BM: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """(BE, BM) z for the node pairs (a, b)."""
    column = tl.arange(0, BM)
    mask = valid[:, None] & (column < M)[None, :]
    z = tl.load(at_a + a[:, None] * M + column[None, :], mask=mask, other=0.0)
    z += tl.load(at_b + b[:, None] * M + column[None, :], mask=mask, other=0.0)
    for first in range(0, FP, BF):
        feature = first + tl.arange(0, BF)
        h_a, h_b = node_rows(h, a, valid, feature, F), node_rows(h, b, valid, feature, F)
        at_w = feature[:, None] * BM + column[None, :]
        w_diff, w_prod = tl.load(w_in + at_w), tl.load(w_in + FP * BM + at_w)
        z += tl.dot(tl.abs(h_a - h_b), w_diff, input_precision=PRECISION, out_dtype=ACC)
        z += tl.dot(h_a * h_b, w_prod, input_precision=PRECISION, out_dtype=ACC)
    return z


@triton.jit
def gate_forward(
    h,  # (N, F)
    at_dst,  # (N, M)
    at_src,  # (N, M)
    src,  # (E,)
    dst,  # (E,)
    w_in,
    w_mid,
    b_mid,
    w_out,
    b_out,  # (1,)
    gate,  # (E,), written
    num_edges,
    F: tl.constexpr,
    M: tl.constexpr,
    FP: tl.constexpr,
    BF: tl.constexpr,
    BM: tl.constexpr,
    BE: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):
    edge = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    valid = edge < num_edges
    i = tl.load(dst + edge, mask=valid, other=0).to(tl.int64)
    j = tl.load(src + edge, mask=valid, other=0).to(tl.int64)
    z = first_layer(h, at_dst, at_src, w_in, i, j, valid, F, M, FP, BF, BM, ACC, PRECISION)
    column = tl.arange(0, BM)
    w = tl.load(w_mid + column[:, None] * BM + column[None, :])
    y = tl.dot(gelu(z), w, input_precision=PRECISION, out_dtype=ACC)
    y += tl.load(b_mid + column)[None, :]
    value = tl.sum(gelu(y) * tl.load(w_out + column)[None, :], 1) + tl.load(b_out)
    tl.store(gate + edge, value, mask=valid)
