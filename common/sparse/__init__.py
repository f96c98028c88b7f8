"""Sparse graph operations over a destination-sorted edge list, with gradients.

=========================== =====================================================================
:func:`neighbor_attention`  softmax attention over in-edges, and an equivariant coordinate step
:func:`attention_weights`   its weights (E, H), for diagnostics
:func:`distance_logits`     the part of its logits that coordinates give, likewise
:func:`edge_softmax`        softmax over the in-edges of each node, and :func:`edge_log_softmax`
:func:`edge_gate`           perceptron on pair features that are never built
:func:`edge_perceptron`     narrow perceptron over the features of edges
:func:`spmm`                weighted adjacency times a dense matrix
:func:`weighted_sum`        the same for several heads, or of rows that edges have
:func:`edge_dot`            products of the rows at both ends of an edge, or at its end and its own
:func:`use_backend`         force the plain, the block-wise, the compiled or the Triton one
=========================== =====================================================================

On CPU the compiled extension does the work where it was built, on CUDA devices Triton where it is
installed; otherwise block-wise PyTorch with the same results (:mod:`common.sparse.backends`).  An
edge gate that is too wide for the Triton kernels goes to block-wise PyTorch too
(:func:`common.sparse.gate.triton.serves`).  Every operation is a folder: ``op`` checks and
dispatches, ``reference`` is the plain form, and the fast forms stand beside it.  Layers made of
them, with the arguments of PyG's, are in :mod:`common.sparse.nn`.
"""

from common.sparse.attention.inputs import distance_logits
from common.sparse.attention.op import attention_weights, neighbor_attention
from common.sparse.backends import Backend, backend_for, use_backend
from common.sparse.gate.op import edge_gate
from common.sparse.perceptron.op import edge_perceptron
from common.sparse.segments.heads import edge_dot, weighted_sum
from common.sparse.segments.op import edge_log_softmax, edge_softmax, spmm

__all__ = [
    "Backend",
    "attention_weights",
    "backend_for",
    "distance_logits",
    "edge_dot",
    "edge_gate",
    "edge_log_softmax",
    "edge_perceptron",
    "edge_softmax",
    "neighbor_attention",
    "spmm",
    "use_backend",
    "weighted_sum",
]
