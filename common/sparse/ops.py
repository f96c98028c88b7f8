"""The public sparse operations: checks, choice of backend, gradients."""

from __future__ import annotations

from torch import Tensor

from common.edges import EdgeList
from common.sparse import reference


def neighbor_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    x: Tensor,
    edges: EdgeList,
    w_x: Tensor,
    *,
    gate: Tensor | None = None,
    beta: float = 1.0,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Softmax attention of every node over its in-edges, and a coordinate step.

    Args:
        q, k, v: (N, H, D).
        x: (N, C) coordinates.
        edges: E edges over N nodes.
        w_x: (H, C, C).
        gate: (E,).
        beta: weight of the gate.
        bias: (E, H).

    Returns:
        out (N, H, D), dx (N, C).
    """
    return reference.neighbor_attention(q, k, v, x, edges, w_x, gate, beta, bias)


def attention_weights(
    q: Tensor,
    k: Tensor,
    edges: EdgeList,
    *,
    gate: Tensor | None = None,
    beta: float = 1.0,
    bias: Tensor | None = None,
) -> Tensor:
    """(E, H) weights of :func:`neighbor_attention`."""
    logits = reference.attention_logits(q, k, edges, gate, beta, bias)
    return reference.edge_softmax(logits, edges)


def edge_softmax(logits: Tensor, edges: EdgeList) -> Tensor:
    """Softmax of (E,) or (E, H) over the in-edges of each node."""
    return reference.edge_softmax(logits, edges)


def edge_log_softmax(logits: Tensor, edges: EdgeList) -> Tensor:
    """Logarithm of :func:`edge_softmax`."""
    return reference.edge_log_softmax(logits, edges)


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
    """(E,) perceptron on [h_i, h_j, |h_i - h_j|, h_i * h_j], i destination, j source."""
    return reference.edge_gate(h, edges, w1, b1, w2, b2, w3, b3)


def spmm(weight: Tensor, edges: EdgeList, dense: Tensor) -> Tensor:
    """(N, R): out_i = sum_e weight_e dense[src_e]."""
    return reference.spmm(weight, edges, dense)
