"""The public sparse operations: argument checks, node-wise parts and the choice of backend."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError
from common.graph.edges import EdgeList
from common.sparse import blockwise, compiled, reference, triton_ops
from common.sparse.backend import backend_for
from common.sparse.checks import at_least_float32, check_dtypes, check_shape

_MODULES = {"torch": blockwise, "cpp": compiled, "triton": triton_ops}


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
    """Softmax attention of every node over its in-edges, and a coordinate step towards them.

    With e = (j, i), ``a_eh = softmax_j(q_ih . k_jh / sqrt(D) + beta gate_e + bias_eh)``,
    ``out_ih = sum_e a_eh v_jh`` and ``dx_i = sum_h sum_e a_eh w_x[h] (x_j - x_i)``.  A node without
    in-edges, or whose logits are all minus infinity, gets zeros and gives zero gradient.

    Args:
        q: (N, H, D) float, H at most 64.
        k: (N, H, D).
        v: (N, H, D).
        x: (N, C) coordinates, C at most 8.
        edges: E edges over N nodes.
        w_x: (H, C, C), acting as ``w_x[h, c, c'] diff_c'``.
        gate: (E,) logit shared by the heads, or None.
        beta: weight of the gate.
        bias: (E, H) logit per head, or None.

    Returns:
        ``out`` (N, H, D) in the dtype of v and ``dx`` (N, C) in the dtype of x.  Half precision is
        computed in float32.  Differentiable once in every tensor.

    Raises:
        ValueError: on a shape that does not fit, or on mixed devices.
    """
    _check_attention(q, k, edges, gate, bias)
    nodes, heads, width = q.shape
    check_shape("v", v, (nodes, heads, width), "(N, H, D) of q")
    check_shape("x", x, (nodes, None), "(N, C)")
    coords = x.shape[1]
    if heads > 64 or coords > 8:
        raise UserError(
            f"q may have up to 64 heads and x up to 8 coordinates, got {heads} and {coords}"
        )
    check_shape("w_x", w_x, (heads, coords, coords), "(H, C, C)")
    kind, kind_x = v.dtype, x.dtype
    check_dtypes(edges, q=q, k=k, v=v, x=x, w_x=w_x, gate=gate, bias=bias)
    backend = backend_for(q)
    if backend != "triton":  # whose kernels read half precision and compute in float32
        q, k, v, x, w_x, gate, bias = at_least_float32(q, k, v, x, w_x, gate, bias)
    module = reference if backend == "reference" else _MODULES[backend]
    out, dx = module.neighbor_attention(q, k, v, x, edges, w_x, gate, beta, bias)
    return out.to(kind), dx.to(kind_x)


def attention_weights(
    q: Tensor,
    k: Tensor,
    edges: EdgeList,
    *,
    gate: Tensor | None = None,
    beta: float = 1.0,
    bias: Tensor | None = None,
) -> Tensor:
    """(E, H) weights that :func:`neighbor_attention` uses, in float32 or wider.

    For diagnostics: it builds arrays of E x H x D.
    """
    _check_attention(q, k, edges, gate, bias)
    q, k, gate, bias = at_least_float32(q, k, gate, bias)
    return edge_softmax(reference.attention_logits(q, k, edges, gate, beta, bias), edges)


def edge_softmax(logits: Tensor, edges: EdgeList) -> Tensor:
    """Softmax of ``logits`` (E,) or (E, H) over the in-edges of each node, shape kept.

    Rows whose logits are all minus infinity get zeros.
    """
    return edge_log_softmax(logits, edges).exp()


def edge_log_softmax(logits: Tensor, edges: EdgeList) -> Tensor:
    """Logarithm of :func:`edge_softmax`, (E,) or (E, H), in float32 or wider."""
    if logits.dim() not in (1, 2) or len(logits) != edges.num_edges:
        raise UserError(
            f"logits must have shape ({edges.num_edges},) or ({edges.num_edges}, H), one row for "
            f"each edge, got {tuple(logits.shape)}"
        )
    (logits,) = at_least_float32(logits)
    check_dtypes(edges, logits=logits)
    backend = backend_for(logits)
    module = reference if backend == "reference" else _MODULES[backend]
    return module.edge_log_softmax(logits, edges)


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
    """Perceptron on the pair features ``[h_i, h_j, |h_i - h_j|, h_i * h_j]`` of every edge.

    i is the destination, j the source; GELU with the exact error function follows the first two
    layers.  The products of the first layer with h_i and h_j are taken once per node, the other two
    by tiles of edges, and backward recomputes the tiles: no E x 4F or E x M array is kept.

    Args:
        h: (N, F) float.
        edges: E edges over N nodes.
        w1: (M, 4F), b1 (M,), w2 (M, M), b2 (M,), w3 (1, M), b3 (1,), as ``nn.Linear`` holds them.

    Returns:
        (E,) logits in the dtype of h, computed in float32 or wider.  Differentiable once in h and
        in the weights.

    Raises:
        ValueError: on a shape that does not fit, or on mixed devices.
    """
    check_shape("h", h, (edges.num_nodes, None), "(N, F)")
    width, hidden = h.shape[1], w1.shape[0]
    check_shape("w1", w1, (hidden, 4 * width), "(M, 4F)")
    check_shape("b1", b1, (hidden,), "(M,)")
    check_shape("w2", w2, (hidden, hidden), "(M, M)")
    check_shape("b2", b2, (hidden,), "(M,)")
    check_shape("w3", w3, (1, hidden), "(1, M)")
    check_shape("b3", b3, (1,), "(1,)")
    kind = h.dtype
    h, w1, b1, w2, b2, w3, b3 = at_least_float32(h, w1, b1, w2, b2, w3, b3)
    check_dtypes(edges, h=h, w1=w1, b1=b1, w2=w2, b2=b2, w3=w3, b3=b3)
    backend = backend_for(h)
    if backend == "reference":
        return reference.edge_gate(h, edges, w1, b1, w2, b2, w3, b3).to(kind)
    w_dst, w_src, w_in = w1.split([width, width, 2 * width], dim=1)
    with torch.autocast(h.device.type, enabled=False):
        at_dst, at_src = F.linear(h, w_dst, b1), F.linear(h, w_src)
    module = _MODULES[backend]
    return module.edge_gate(at_dst, at_src, h, edges, w_in, w2, b2, w3, b3).to(kind)


def spmm(weight: Tensor, edges: EdgeList, dense: Tensor) -> Tensor:
    """Weighted adjacency times a dense matrix: ``out_i = sum_e weight_e dense[src_e]``.

    Args:
        weight: (E,) float.
        edges: E edges over N nodes.
        dense: (N, R).

    Returns:
        (N, R), in float32 or wider.  Differentiable once in both.
    """
    check_shape("weight", weight, (edges.num_edges,), "(E,)")
    check_shape("dense", dense, (edges.num_nodes, None), "(N, R)")
    weight, dense = at_least_float32(weight, dense)
    check_dtypes(edges, weight=weight, dense=dense)
    backend = backend_for(dense)
    module = reference if backend == "reference" else _MODULES[backend]
    return module.spmm(weight, edges, dense)


def _check_attention(
    q: Tensor, k: Tensor, edges: EdgeList, gate: Tensor | None, bias: Tensor | None
) -> None:
    check_shape("q", q, (edges.num_nodes, None, None), "(N, H, D)")
    check_shape("k", k, tuple(q.shape), "(N, H, D) of q")
    if gate is not None:
        check_shape("gate", gate, (edges.num_edges,), "(E,)")
    if bias is not None:
        check_shape("bias", bias, (edges.num_edges, q.shape[1]), "(E, H)")
