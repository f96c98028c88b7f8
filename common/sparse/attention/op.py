"""Neighbour attention: checks and the choice of a form."""

from __future__ import annotations

from torch import Tensor

from common.errors import UserError
from common.graph.edges import EdgeList
from common.sparse.attention import blockwise, compiled, reference, triton
from common.sparse.attention.inputs import AttentionInputs
from common.sparse.backends import Backend, Form, form_for
from common.sparse.checks import at_least_float32, check_dtypes, check_shape
from common.sparse.segments.op import edge_softmax

FORMS: dict[Backend, Form] = {
    "reference": Form(reference.neighbor_attention),
    "torch": Form(blockwise.neighbor_attention),
    "cpp": Form(compiled.neighbor_attention),
    "triton": Form(triton.neighbor_attention, half=True),
}


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
    gamma: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Softmax attention of every node over its in-edges, and a coordinate step towards them.

    With e = (j, i), ``a_eh = softmax_j(q_ih . k_jh / sqrt(D) + beta gate_e + bias_eh -
    gamma_h |x_j - x_i|^2)``, ``out_ih = sum_e a_eh v_jh`` and ``dx_i = sum_h sum_e a_eh w_x[h]
    (x_j - x_i)``.  A node without in-edges, or whose logits are all minus infinity, gets zeros and
    gives zero gradient.

    Args:
        q: (N, H, D) float, H at most 64.  D may be 0: then the edges alone decide, which the
            compiled backend does several times as fast.
        k: (N, H, D).
        v: (N, H, D).
        x: (N, C) coordinates, C at most 8.
        edges: E edges over N nodes.
        w_x: (H, C, C), acting as ``w_x[h, c, c'] diff_c'``.
        gate: (E,) logit shared by the heads, or None.
        beta: weight of the gate.
        bias: (E, H) logit per head, or None.
        gamma: (H,) weight of the squared distance in x, or None.

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
    if gamma is not None:
        check_shape("gamma", gamma, (heads,), "(H,)")
    check_dtypes(edges, q=q, k=k, v=v, x=x, w_x=w_x, gate=gate, bias=bias, gamma=gamma)
    form = form_for(FORMS, q)
    if not form.half:
        q, k, v, x, w_x, gate, bias, gamma = at_least_float32(q, k, v, x, w_x, gate, bias, gamma)
    out, dx = form.run(AttentionInputs(q, k, v, x, edges, w_x, gate, beta, bias, gamma))
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


def _check_attention(
    q: Tensor, k: Tensor, edges: EdgeList, gate: Tensor | None, bias: Tensor | None
) -> None:
    check_shape("q", q, (edges.num_nodes, None, None), "(N, H, D)")
    check_shape("k", k, tuple(q.shape), "(N, H, D) of q")
    if gate is not None:
        check_shape("gate", gate, (edges.num_edges,), "(E,)")
    if bias is not None:
        check_shape("bias", bias, (edges.num_edges, q.shape[1]), "(E, H)")
