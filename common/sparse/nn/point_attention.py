"""Attention between points that moves them: features stay, positions turn with the input.

With e = (j, i), heads h and C channels a head::

    l_eh = q_ih . k_jh / sqrt(C) - g_h |p_i - p_j|^2 + (W_e e)_h
    a_eh = softmax of l_eh over the in-edges of i
    x'_i = W_1 x_i + concat_h sum_e a_eh v_jh
    p'_i = p_i + sum_h s_h sum_e a_eh (p_j - p_i)

with ``g_h = softplus(decay_h)`` in 1 / length^2 and steps ``s_h`` that start at zero.  Rotations,
mirror images and translations of p go through to p' and leave x' as it is: coordinates move along
differences, with invariant weights, as in Satorras et al., "E(n) equivariant graph neural
networks", ICML 2021, eq. 4.  One call of fused attention.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from common.graph.edges import EdgeList
from common.sparse.attention.op import neighbor_attention
from common.sparse.nn.graph import graph_of
from common.sparse.nn.heads import check_edge_attr, merge_heads
from common.sparse.nn.linear import Linear


class PointAttentionConv(nn.Module):
    """Equivariant attention over the in-edges of points; see the module docstring.

    Args:
        in_channels: features of a point.
        out_channels: C, features of a head.
        heads: H, at most 64.
        concat: whether heads are concatenated (H * C features out) or averaged (C).
        edge_dim: features of an edge; None for none.
        bias: whether the linear maps of points have one.
        root_weight: whether ``W_1 x_i`` is added.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        heads: int = 1,
        concat: bool = True,
        edge_dim: int | None = None,
        bias: bool = True,
        root_weight: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.heads = in_channels, out_channels, heads
        self.concat, self.edge_dim = concat, edge_dim
        inside = heads * out_channels
        outside = inside if concat else out_channels
        self.lin_query = Linear(in_channels, inside, bias)
        self.lin_key = Linear(in_channels, inside, bias)
        self.lin_value = Linear(in_channels, inside, bias)
        self.lin_edge = None if edge_dim is None else Linear(edge_dim, heads, bias=False)
        self.lin_skip = Linear(in_channels, outside, bias) if root_weight else None
        self.decay = nn.Parameter(torch.empty(heads))
        self.step = nn.Parameter(torch.empty(heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights anew; decays are 1, steps 0."""
        for linear in self.children():
            assert isinstance(linear, Linear)
            linear.reset_parameters()
        nn.init.constant_(self.decay, math.log(math.e - 1))  # softplus of it is 1
        nn.init.zeros_(self.step)

    def forward(
        self,
        x: Tensor,
        pos: Tensor,
        edge_index: Tensor | EdgeList,
        edge_attr: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """New features (N, H * C), or (N, C) without ``concat``, and new positions (N, P).

        Args:
            x: (N, F) float.
            pos: (N, P), P at most 8.
            edge_index: (2, E) in any order, PyG's ``EdgeIndex``, or an :class:`EdgeList`.
            edge_attr: (E, edge_dim), in the order of ``edge_index``.

        Raises:
            ValueError: on a shape that does not fit, or edge features that are missing or unused.
        """
        graph = graph_of(edge_index, len(x), len(x), "source_to_target")
        edges = graph.edges
        q, k, v = (
            linear(x).unflatten(1, (self.heads, self.out_channels))
            for linear in (self.lin_query, self.lin_key, self.lin_value)
        )
        bias = None  # (E, H)
        if edge_attr is not None:
            check_edge_attr("PointAttentionConv", edge_attr, self.edge_dim, edges.num_edges)
            assert self.lin_edge is not None
            bias = self.lin_edge(graph.sorted(edge_attr))
        elif self.edge_dim is not None:
            raise UserError(
                f"PointAttentionConv: edge_attr is missing, and edge_dim is {self.edge_dim}; give "
                "it, or leave out edge_dim"
            )
        turn = self.step[:, None, None] * torch.eye(
            pos.shape[1], dtype=pos.dtype, device=pos.device
        )
        gamma = F.softplus(self.decay)
        out, moved = neighbor_attention(q, k, v, pos, edges, turn, bias=bias, gamma=gamma)
        out = merge_heads(out, graph, self.concat)
        if self.lin_skip is not None:
            out = out + self.lin_skip(x)
        return out, pos + moved

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, heads={self.heads}"
