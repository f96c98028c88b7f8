"""The sparse operations in plain PyTorch: the truth that every fast path is tested against.

For each destination node i with in-edges e = (j, i), the logits are::

    l_eh = q_ih . k_jh / sqrt(D) + beta g_e + b_eh,   a_eh = softmax of l_eh over in-edges of i

and neighbour attention returns ``out_ih = sum_e a_eh v_jh`` and
``dx_i = sum_h sum_e a_eh W_h (x_j - x_i)``.  The edge gate is a perceptron on
``[h_i, h_j, |h_i - h_j|, h_i * h_j]``, and ``spmm`` the product of the weighted adjacency with a
dense matrix.  Rows without edges give zero, and so do rows whose logits are all minus infinity.

Any floating dtype and device; differentiable any number of times; E x H x D and E x 4F arrays are
built, so this is for checking and for small inputs.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from common.graph.edges import EdgeList


def segment_sum(values: Tensor, edges: EdgeList) -> Tensor:
    """Sum edge values (E, ...) over the in-edges of each node: (N, ...)."""
    total = values.new_zeros(edges.num_nodes, *values.shape[1:])
    return total.index_add(0, edges.dst, values)


def edge_log_softmax(logits: Tensor, edges: EdgeList) -> Tensor:
    """Logarithm of :func:`edge_softmax`, (E,) or (E, H)."""
    with torch.no_grad():
        peak = logits.new_full((edges.num_nodes, *logits.shape[1:]), -math.inf)
        peak = peak.scatter_reduce(0, _rows(logits, edges), logits, "amax")
        # A row that is all -inf would give inf - inf; shifting it by 0 keeps its weights at 0.
        shift = torch.where(peak.isinf(), 0, peak)[edges.dst]
    shifted = logits - shift
    total = segment_sum(shifted.exp(), edges)[edges.dst]
    return shifted - torch.where(total == 0, 1, total).log()


def edge_softmax(logits: Tensor, edges: EdgeList) -> Tensor:
    """Softmax of edge logits (E,) or (E, H) over the in-edges of each node."""
    return edge_log_softmax(logits, edges).exp()


def attention_logits(
    q: Tensor, k: Tensor, edges: EdgeList, gate: Tensor | None, beta: float, bias: Tensor | None
) -> Tensor:
    """(E, H) logits ``q_i . k_j / sqrt(D) + beta gate_e + bias_eh``."""
    logits = (q.index_select(0, edges.dst) * k.index_select(0, edges.src)).sum(-1) / math.sqrt(
        q.shape[-1]
    )
    if gate is not None:
        logits = logits + beta * gate[:, None]
    if bias is not None:
        logits = logits + bias
    return logits


def neighbor_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    x: Tensor,
    edges: EdgeList,
    w_x: Tensor,
    gate: Tensor | None,
    beta: float,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """``out`` (N, H, D) and ``dx`` (N, C) as in the module docstring."""
    a = edge_softmax(attention_logits(q, k, edges, gate, beta, bias), edges)  # (E, H)
    out = segment_sum(a[:, :, None] * v[edges.src], edges)
    step = torch.einsum("eh,hcd,ed->ec", a, w_x, x[edges.src] - x[edges.dst])
    return out, segment_sum(step, edges)


def edge_gate(
    h: Tensor,
    edges: EdgeList,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    w3: Tensor,
    b3: Tensor,
) -> Tensor:
    """(E,) perceptron outputs on the (E, 4F) pair features."""
    hi, hj = h[edges.dst], h[edges.src]
    features = torch.cat([hi, hj, (hi - hj).abs(), hi * hj], dim=-1)
    hidden = F.gelu(F.linear(features, w1, b1))
    hidden = F.gelu(F.linear(hidden, w2, b2))
    return F.linear(hidden, w3, b3).squeeze(-1)


def spmm(weight: Tensor, edges: EdgeList, dense: Tensor) -> Tensor:
    """(N, R) ``out_i = sum_e weight_e dense[src_e]``."""
    return segment_sum(weight[:, None] * dense[edges.src], edges)


def _rows(logits: Tensor, edges: EdgeList) -> Tensor:
    """Destination of every entry of ``logits``, in its shape."""
    index = edges.dst.long().view(-1, *[1] * (logits.dim() - 1))
    return index.expand_as(logits)
