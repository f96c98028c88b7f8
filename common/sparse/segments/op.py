"""Softmax over the in-edges of each node, and ``spmm``: checks and the choice of a form."""

from __future__ import annotations

from torch import Tensor

from common.errors import UserError
from common.graph.edges import EdgeList
from common.sparse.backends import Backend, Form, form_for
from common.sparse.checks import at_least_float32, check_dtypes, check_shape
from common.sparse.segments import blockwise, compiled, reference, triton

LOG_SOFTMAX: dict[Backend, Form] = {
    "reference": Form(reference.edge_log_softmax),
    "torch": Form(reference.edge_log_softmax),  # its arrays are (E, H) already
    "cpp": Form(compiled.edge_log_softmax),
    "triton": Form(triton.edge_log_softmax),
}
SPMM: dict[Backend, Form] = {
    "reference": Form(reference.spmm),
    "torch": Form(blockwise.spmm),
    "cpp": Form(compiled.spmm),
    "triton": Form(triton.spmm),
}


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
    return form_for(LOG_SOFTMAX, logits).run(logits, edges)


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
    return form_for(SPMM, dense).run(weight, edges, dense)
