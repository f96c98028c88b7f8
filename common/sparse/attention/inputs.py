"""What the forms of neighbour attention take and return."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from common.graph.edges import EdgeList
from common.sparse.registration import reverse_if_needed


class AttentionInputs(NamedTuple):
    """One call of neighbour attention."""

    q: Tensor  # (N, H, D)
    k: Tensor  # (N, H, D)
    v: Tensor  # (N, H, D)
    x: Tensor  # (N, C)
    edges: EdgeList
    w_x: Tensor  # (H, C, C)
    gate: Tensor | None  # (E,)
    beta: float
    bias: Tensor | None  # (E, H)
    gamma: Tensor | None = None  # (H,)

    def folded(self) -> AttentionInputs:
        """The same with the distances in the bias, for forms that know none."""
        if self.gamma is None:
            return self
        term = distance_logits(self.x, self.edges, self.gamma)
        return self._replace(bias=term if self.bias is None else self.bias + term, gamma=None)


def distance_logits(x: Tensor, edges: EdgeList, gamma: Tensor) -> Tensor:
    """What squared distances add to the logits of attention: ``-gamma_h |x_j - x_i|^2``.

    Args:
        x: (N, C) coordinates.
        edges: E edges (j, i) over N nodes.
        gamma: (H,) weights.

    Returns:
        (E, H).
    """
    gap = x.index_select(0, edges.src) - x.index_select(0, edges.dst)
    return -gamma * gap.square().sum(1, keepdim=True)


class Operands(NamedTuple):
    """The same as the operators take it, in the order of their schema."""

    q: Tensor
    k: Tensor
    v: Tensor
    x: Tensor
    src: Tensor  # (E,)
    dst: Tensor  # (E,)
    ptr: Tensor  # (N + 1,)
    rev_ptr: Tensor  # (N + 1,), read by gradients alone
    rev_edge: Tensor  # (E,), read by gradients alone
    w_x: Tensor
    gate: Tensor | None
    beta: float
    bias: Tensor | None


class Result(NamedTuple):
    """What the operators return."""

    out: Tensor  # (N, H, D)
    dx: Tensor  # (N, C)
    lse: Tensor  # (N, H) log-sum-exp of the logits, kept for backward
    moment: Tensor  # (N, H, C) mean displacement, kept for backward


def operands_of(inputs: AttentionInputs) -> Operands:
    """The reverse CSR is built only if a gradient will read it."""
    q, k, v, x, edges, w_x, gate, beta, bias, _ = inputs
    reverse = reverse_if_needed(edges, q, k, v, x, w_x, gate, bias)
    return Operands(q, k, v, x, edges.src, edges.dst, edges.ptr, *reverse, w_x, gate, beta, bias)


def point_operands_of(inputs: AttentionInputs) -> tuple[Any, ...]:
    """The same for the operator of attention without states, which knows distances."""
    _, _, _, x, edges, w_x, gate, beta, bias, gamma = inputs
    reverse = reverse_if_needed(edges, x, w_x, gate, bias, gamma)
    return x, edges.src, edges.dst, edges.ptr, *reverse, w_x, gate, beta, bias, gamma
