"""The edge gate: checks and the choice of a form."""

from __future__ import annotations

from torch import Tensor

from common.graph.edges import EdgeList
from common.sparse.backends import Backend, Form, form_for
from common.sparse.checks import at_least_float32, check_dtypes, check_shape
from common.sparse.gate import blockwise, compiled, reference, triton
from common.sparse.gate.inputs import GateInputs

FORMS: dict[Backend, Form] = {
    "reference": Form(reference.edge_gate),
    "torch": Form(blockwise.edge_gate),
    "cpp": Form(compiled.edge_gate),
    "triton": Form(triton.edge_gate, serves=triton.serves),
}


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
    inputs = GateInputs(*at_least_float32(h, w1, b1, w2, b2, w3, b3))
    check_dtypes(
        edges,
        h=inputs.h,
        w1=inputs.w1,
        b1=inputs.b1,
        w2=inputs.w2,
        b2=inputs.b2,
        w3=inputs.w3,
        b3=inputs.b3,
    )
    return form_for(FORMS, inputs.h, inputs).run(inputs, edges).to(kind)
