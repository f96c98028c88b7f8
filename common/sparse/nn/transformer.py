"""The graph transformer, with the arguments, weights and numbers of PyG's ``TransformerConv``.

With e = (j, i), heads h and C channels a head::

    l_eh = q_ih . (k_jh + W6_h e) / sqrt(C),    a_eh = softmax of l_eh over in-edges of i
    x'_i = W1 x_i + concat_h sum_e a_eh (v_jh + W6_h e)

(Shi et al., "Masked label prediction", IJCAI 2021, eqs. 3-5.)  Without edge features this is one
call of fused attention.  With them, ``q . W6 e = (W6^T q) . e`` is a product of a node row with an
edge row, and ``sum_e a_eh W6_h e = W6_h sum_e a_eh e``: the largest arrays are E x H.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.graph.edges import EdgeList
from common.sparse.attention.op import neighbor_attention
from common.sparse.nn.graph import Graph, graph_of
from common.sparse.nn.heads import (
    Channels,
    NodeFeatures,
    both_ends,
    check_edge_attr,
    check_message_options,
    dropped,
    merge_heads,
)
from common.sparse.nn.linear import Linear
from common.sparse.segments.heads import edge_dot, weighted_sum
from common.sparse.segments.op import edge_softmax

_FUSED_HEADS = 64  # at most, of fused attention


class TransformerConv(nn.Module):
    """``torch_geometric.nn.TransformerConv`` on the kernels: swap the import, keep the checkpoint.

    Args:
        in_channels: features of a node; a pair for sources and destinations of a bipartite graph.
        out_channels: C, features of a head.
        heads: H.
        concat: whether heads are concatenated (H * C features out) or averaged (C).
        beta: whether a learned gate mixes messages and skip connection.
        dropout: probability that an attention weight is dropped in training.
        edge_dim: features of an edge; None for none.
        bias: whether the linear maps of nodes have one.
        root_weight: whether ``W1 x_i`` is added; without it ``beta`` is off.
        aggr: ``"add"``.
        aggr_kwargs: none.
        flow: ``"source_to_target"``, or ``"target_to_source"`` to reverse the edges.
        decomposed_layers: 1.

    Raises:
        ValueError: naming the option, where PyG has one that is not supported.
    """

    def __init__(
        self,
        in_channels: Channels,
        out_channels: int,
        heads: int = 1,
        concat: bool = True,
        beta: bool = False,
        dropout: float = 0.0,
        edge_dim: int | None = None,
        bias: bool = True,
        root_weight: bool = True,
        *,
        aggr: str = "add",
        aggr_kwargs: None = None,
        flow: str = "source_to_target",
        decomposed_layers: int = 1,
    ) -> None:
        super().__init__()
        check_message_options("TransformerConv", aggr, aggr_kwargs, flow, decomposed_layers)
        self.in_channels, self.out_channels, self.heads = in_channels, out_channels, heads
        self.concat, self.beta, self.root_weight = concat, beta and root_weight, root_weight
        self.dropout, self.edge_dim, self.flow = dropout, edge_dim, flow
        source, target = both_ends(in_channels)
        inside = heads * out_channels
        outside = inside if concat else out_channels
        self.lin_key = Linear(source, inside, bias)
        self.lin_query = Linear(target, inside, bias)
        self.lin_value = Linear(source, inside, bias)
        self.lin_edge = None if edge_dim is None else Linear(edge_dim, inside, bias=False)
        self.lin_skip = Linear(target, outside, bias)
        self.lin_beta = Linear(3 * outside, 1, bias=False) if self.beta else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights anew, as PyG's layer does from the same random state."""
        for linear in self.children():
            assert isinstance(linear, Linear)
            linear.reset_parameters()

    def forward(
        self,
        x: NodeFeatures,
        edge_index: Tensor | EdgeList,
        edge_attr: Tensor | None = None,
        return_attention_weights: bool | None = None,
    ) -> Tensor | tuple[Tensor, tuple[Tensor | EdgeList, Tensor]]:
        """New node features.

        Args:
            x: (N, F) float, or a pair (sources, destinations) of such.
            edge_index: (2, E) in any order, PyG's ``EdgeIndex``, or an :class:`EdgeList`.
            edge_attr: (E, edge_dim), in the order of ``edge_index``.
            return_attention_weights: any bool, also False as in PyG, to get ``(out, (edge_index,
                weights))`` with (E, H) weights before dropout.

        Returns:
            (destinations, H * C), or (destinations, C) without ``concat``.

        Raises:
            ValueError: on a shape that does not fit, or edge features that are missing or unused.
        """
        source, target = (x, x) if isinstance(x, Tensor) else x
        graph = graph_of(edge_index, len(source), len(target), self.flow)
        q, k, v = (
            graph.padded(linear(rows)).unflatten(1, (self.heads, self.out_channels))
            for linear, rows in (
                (self.lin_query, target),
                (self.lin_key, source),
                (self.lin_value, source),
            )
        )
        edge = self._edge_rows(edge_attr, graph)
        wanted = isinstance(return_attention_weights, bool)
        weights = None
        if edge is None and not wanted and not self._drops() and self.heads <= _FUSED_HEADS:
            still = q.new_zeros(len(q), 1)  # no coordinates
            messages, _ = neighbor_attention(
                q, k, v, still, graph.edges, q.new_zeros(self.heads, 1, 1)
            )
        else:
            messages, weights = self._by_parts(q, k, v, edge, graph)
        out = self._with_skip(merge_heads(messages, graph, self.concat), target)
        if not wanted:
            return out
        assert weights is not None
        return out, (edge_index, graph.as_given(weights).to(out.dtype))

    def _drops(self) -> bool:
        return self.training and self.dropout > 0

    def _edge_rows(self, edge_attr: Tensor | None, graph: Graph) -> Tensor | None:
        if edge_attr is not None:
            check_edge_attr("TransformerConv", edge_attr, self.edge_dim, graph.edges.num_edges)
            return graph.sorted(edge_attr)
        if self.edge_dim is not None:
            raise UserError(
                f"TransformerConv: edge_attr is missing, and edge_dim is {self.edge_dim}; give it, "
                "or leave out edge_dim"
            )
        return None

    def _by_parts(
        self, q: Tensor, k: Tensor, v: Tensor, edge: Tensor | None, graph: Graph
    ) -> tuple[Tensor, Tensor]:
        """Messages (N, H, C) and attention weights (E, H)."""
        edges = graph.edges
        logits = edge_dot(q, k, edges)
        if edge is not None:
            assert self.lin_edge is not None
            w_edge = self.lin_edge.weight.unflatten(0, (self.heads, self.out_channels))
            in_edge_terms = torch.einsum("nhc,hcf->nhf", q, w_edge.to(q.dtype))
            logits = logits + edge_dot(in_edge_terms, edge.to(q.dtype), edges)
        weights = edge_softmax(logits / math.sqrt(self.out_channels), edges)
        kept = dropped(weights, self.dropout, self.training, graph)
        messages = weighted_sum(kept, edges, v)
        if edge is not None:
            sums = weighted_sum(kept, edges, edge.to(v.dtype))
            messages = messages + torch.einsum("nhf,hcf->nhc", sums, w_edge.to(sums.dtype))
        return messages.to(v.dtype), weights

    def _with_skip(self, out: Tensor, target: Tensor) -> Tensor:
        if not self.root_weight:
            return out
        skip = self.lin_skip(target)
        if self.lin_beta is None:
            return out + skip
        share = self.lin_beta(torch.cat([out, skip, out - skip], -1)).sigmoid()
        return share * skip + (1 - share) * out

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, heads={self.heads}"
