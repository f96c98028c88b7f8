"""GATv2, with the arguments, weights and numbers of PyG's ``GATv2Conv``.

With e = (j, i), heads h and C channels a head::

    s_eh = a_h . LeakyReLU(W_l x_j + W_r x_i + W_e e)_h,   w_eh = softmax of s_eh over in-edges of i
    x'_i = concat_h sum_e w_eh (W_l x_j)_h

Brody, Alon and Yahav, "How attentive are graph attention networks?", ICLR 2022, eq. 7.  Scores are
computed by blocks of edges, softmax and sums by the kernels: the largest arrays are E x H.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.graph.edges import EdgeList
from common.sparse.nn.graph import Graph, graph_of
from common.sparse.nn.heads import (
    Channels,
    NodeFeatures,
    both_ends,
    check_edge_attr,
    check_message_options,
    check_sides,
    dropped,
    merge_heads,
)
from common.sparse.nn.linear import Linear, glorot
from common.sparse.nn.pair_scores import Edges, pair_scores
from common.sparse.nn.self_loops import FillValue, check_fill_value, with_loops
from common.sparse.segments.heads import weighted_sum
from common.sparse.segments.op import edge_softmax


class GATv2Conv(nn.Module):
    """``torch_geometric.nn.GATv2Conv`` on the kernels: swap the import, keep the checkpoint.

    Args:
        in_channels: features of a node; a pair for sources and destinations of a bipartite graph.
        out_channels: C, features of a head.
        heads: H.
        concat: whether heads are concatenated (H * C features out) or averaged (C).
        negative_slope: of LeakyReLU.
        dropout: probability that an attention weight is dropped in training.
        add_self_loops: whether self-loops are replaced by one for each node.
        edge_dim: features of an edge; None for none.
        fill_value: edge features of self-loops: a number, a tensor, or ``"add"``, ``"mean"``,
            ``"min"``, ``"max"``, ``"mul"`` of those of the edges into the node.
        bias: whether there is one, in the linear maps and behind the sum.
        share_weights: whether ``W_r`` is ``W_l``.
        residual: whether a linear map of ``x_i`` is added.
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
        negative_slope: float = 0.2,
        dropout: float = 0.0,
        add_self_loops: bool = True,
        edge_dim: int | None = None,
        fill_value: FillValue = "mean",
        bias: bool = True,
        share_weights: bool = False,
        residual: bool = False,
        *,
        aggr: str = "add",
        aggr_kwargs: None = None,
        flow: str = "source_to_target",
        decomposed_layers: int = 1,
    ) -> None:
        super().__init__()
        check_message_options("GATv2Conv", aggr, aggr_kwargs, flow, decomposed_layers)
        check_fill_value("GATv2Conv", fill_value)
        self.in_channels, self.out_channels, self.heads = in_channels, out_channels, heads
        self.concat, self.negative_slope, self.dropout = concat, negative_slope, dropout
        self.add_self_loops, self.edge_dim, self.fill_value = add_self_loops, edge_dim, fill_value
        self.share_weights, self.residual, self.flow = share_weights, residual, flow
        source, target = both_ends(in_channels)
        inside = heads * out_channels
        outside = inside if concat else out_channels
        self.lin_l = Linear(source, inside, bias, "glorot")
        self.lin_r = self.lin_l if share_weights else Linear(target, inside, bias, "glorot")
        self.att = nn.Parameter(torch.empty(1, heads, out_channels))
        self.lin_edge = None if edge_dim is None else Linear(edge_dim, inside, False, "glorot")
        self.res = Linear(target, outside, False, "glorot") if residual else None
        self.bias = nn.Parameter(torch.empty(outside)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights anew, as PyG's layer does from the same random state."""
        for linear in (self.lin_l, self.lin_r, self.lin_edge, self.res):
            if linear is not None:
                linear.reset_parameters()
        glorot(self.att)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

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
            edge_attr: (E, edge_dim), or (E,) if that is 1, in the order of ``edge_index``.
            return_attention_weights: true to get ``(out, (edge_index, weights))``: the edges with
                their self-loops, and (E, H) weights after dropout.

        Returns:
            (destinations, H * C), or (destinations, C) without ``concat``.

        Raises:
            ValueError: on a shape that does not fit, or edge features that nothing uses.
        """
        shape = (self.heads, self.out_channels)
        source, target = (x, x) if isinstance(x, Tensor) else x
        check_sides("GATv2Conv", self.flow, len(source), len(target))
        left = self.lin_l(source).unflatten(1, shape)
        shared = self.share_weights and source is target
        right = left if shared else self.lin_r(target).unflatten(1, shape)
        graph = graph_of(
            edge_index, len(left), len(right), self.flow, self_loops=self.add_self_loops
        )
        edges = graph.edges
        at_edges = self._at_edges(edge_attr, edge_index, graph)
        left, right = graph.padded(left), graph.padded(right)
        scores = pair_scores(left, right, self.att[0], edges, self.negative_slope, at_edges)
        weights = dropped(edge_softmax(scores, edges), self.dropout, self.training, graph)
        out = merge_heads(weighted_sum(weights, edges, left).to(left.dtype), graph, self.concat)
        if self.res is not None:
            out = out + self.res(target)
        if self.bias is not None:
            out = out + self.bias
        if not return_attention_weights:
            return out
        shown = edge_index if graph.loops is None else graph.loops.edge_index
        return out, (shown, graph.as_given(weights).to(left.dtype))

    def _at_edges(
        self, edge_attr: Tensor | None, edge_index: Tensor | EdgeList, graph: Graph
    ) -> Edges | None:
        if edge_attr is None:
            return None
        edge_attr = edge_attr[:, None] if edge_attr.dim() == 1 else edge_attr
        given = edge_index.num_edges if isinstance(edge_index, EdgeList) else edge_index.shape[1]
        check_edge_attr("GATv2Conv", edge_attr, self.edge_dim, given)
        assert self.lin_edge is not None
        if graph.loops is not None:
            edge_attr = with_loops(edge_attr, graph.loops, self.fill_value)
        weight = self.lin_edge.weight.unflatten(0, (self.heads, self.out_channels))
        return Edges(graph.sorted(edge_attr), weight)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, heads={self.heads}"
