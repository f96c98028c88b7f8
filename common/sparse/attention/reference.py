"""Neighbour attention in plain PyTorch: the truth that every fast form is tested against.

For each destination node i with in-edges e = (j, i), the logits are::

    l_eh = q_ih . k_jh / sqrt(D) + beta g_e + b_eh - gamma_h |x_j - x_i|^2
    a_eh = softmax of l_eh over in-edges of i

and the results are ``out_ih = sum_e a_eh v_jh`` and ``dx_i = sum_h sum_e a_eh W_h (x_j - x_i)``.
Rows without edges give zero, and so do rows whose logits are all minus infinity.  With D = 0 there
are no products and no ``out``: logits are those of gate, bias and distance.

Any floating dtype and device; differentiable any number of times; E x H x D arrays are built, so
this is for checking and for small inputs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from common.graph.edges import EdgeList
from common.sparse.attention.inputs import AttentionInputs
from common.sparse.segments.reference import edge_softmax, segment_sum


def attention_logits(
    q: Tensor, k: Tensor, edges: EdgeList, gate: Tensor | None, beta: float, bias: Tensor | None
) -> Tensor:
    """(E, H) logits ``q_i . k_j / sqrt(D) + beta gate_e + bias_eh``."""
    product = (q.index_select(0, edges.dst) * k.index_select(0, edges.src)).sum(-1)
    logits = product / math.sqrt(max(q.shape[-1], 1))
    if gate is not None:
        logits = logits + beta * gate[:, None]
    if bias is not None:
        logits = logits + bias
    return logits


def neighbor_attention(inputs: AttentionInputs) -> tuple[Tensor, Tensor]:
    """``out`` (N, H, D) and ``dx`` (N, C) as in the module docstring."""
    q, k, v, x, edges, w_x, gate, beta, bias, _ = inputs.folded()
    a = edge_softmax(attention_logits(q, k, edges, gate, beta, bias), edges)  # (E, H)
    out = segment_sum(a[:, :, None] * v[edges.src], edges)
    step = torch.einsum("eh,hcd,ed->ec", a, w_x, x[edges.src] - x[edges.dst])
    return out, segment_sum(step, edges)
