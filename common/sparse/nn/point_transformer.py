"""The Point Transformer layer, with the arguments, weights and numbers of PyG's.

With e = (j, i), a weight for each channel::

    d_e = pos_nn(p_i - p_j)
    w_e = softmax of attn_nn(W_dst x_i - W_src x_j + d_e) over the in-edges of i
    x'_i = sum_e w_e * (W x_j + d_e)

Zhao et al., "Point Transformer", ICCV 2021, eq. 3.  ``pos_nn`` and ``attn_nn`` are networks of the
user that see every edge, so arrays of E x C are built; softmax and sums are those of the kernels.
Edges reach the networks sorted by destination: one that draws random numbers draws others than in
PyG.
"""

from __future__ import annotations

from torch import Tensor, nn

from common.errors import UserError
from common.graph.edges import EdgeList
from common.sparse.nn.graph import graph_of
from common.sparse.nn.heads import (
    Channels,
    NodeFeatures,
    both_ends,
    check_message_options,
    check_sides,
)
from common.sparse.nn.linear import Linear
from common.sparse.segments.heads import weighted_sum
from common.sparse.segments.op import edge_softmax


class PointTransformerConv(nn.Module):
    """``torch_geometric.nn.PointTransformerConv`` on the kernels: swap the import.

    Args:
        in_channels: features of a node; a pair for sources and destinations of a bipartite graph.
        out_channels: C.
        pos_nn: (E, 3) differences of positions to (E, C); a linear map if None.
        attn_nn: (E, C) to (E, C); nothing if None.
        add_self_loops: whether self-loops are replaced by one for each node.
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
        pos_nn: nn.Module | None = None,
        attn_nn: nn.Module | None = None,
        add_self_loops: bool = True,
        *,
        aggr: str = "add",
        aggr_kwargs: None = None,
        flow: str = "source_to_target",
        decomposed_layers: int = 1,
    ) -> None:
        super().__init__()
        check_message_options("PointTransformerConv", aggr, aggr_kwargs, flow, decomposed_layers)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.add_self_loops, self.flow = add_self_loops, flow
        source, target = both_ends(in_channels)
        self.pos_nn = Linear(3, out_channels) if pos_nn is None else pos_nn
        self.attn_nn = attn_nn
        self.lin = Linear(source, out_channels, bias=False)
        self.lin_src = Linear(source, out_channels, bias=False)
        self.lin_dst = Linear(target, out_channels, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights anew, as PyG's layer does from the same random state."""
        for network in (self.pos_nn, self.attn_nn, self.lin, self.lin_src, self.lin_dst):
            if network is not None:
                _reset(network)

    def forward(self, x: NodeFeatures, pos: NodeFeatures, edge_index: Tensor | EdgeList) -> Tensor:
        """New node features (destinations, C).

        Args:
            x: (N, F) float, or a pair (sources, destinations) of such.
            pos: (N, 3) positions, or a pair.
            edge_index: (2, E) in any order, PyG's ``EdgeIndex``, or an :class:`EdgeList`.

        Raises:
            ValueError: on a shape that does not fit.
        """
        source, target = (x, x) if isinstance(x, Tensor) else x
        at_source, at_target = (pos, pos) if isinstance(pos, Tensor) else pos
        for rows, positions, side in ((source, at_source, "source"), (target, at_target, "target")):
            if len(rows) != len(positions):
                raise UserError(
                    f"pos must have a row for each {side} node: x has {len(rows)}, pos "
                    f"{len(positions)}"
                )
        check_sides("PointTransformerConv", self.flow, len(source), len(target))
        graph = graph_of(
            edge_index, len(source), len(target), self.flow, self_loops=self.add_self_loops
        )
        src, dst = graph.edges.src, graph.edges.dst
        delta = self.pos_nn(at_target.index_select(0, dst) - at_source.index_select(0, src))
        logits = (
            self.lin_dst(target).index_select(0, dst)
            - self.lin_src(source).index_select(0, src)
            + delta
        )
        if self.attn_nn is not None:
            logits = self.attn_nn(logits)
        weights = edge_softmax(logits, graph.edges).to(logits.dtype)
        messages = weights * (self.lin(source).index_select(0, src) + delta)
        ones = messages.new_ones(len(messages), 1)
        sums = weighted_sum(ones, graph.edges, messages)[: graph.destinations, 0]
        return sums.to(messages.dtype)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}"


def _reset(network: nn.Module) -> None:
    reset = getattr(network, "reset_parameters", None)
    if reset is not None:
        reset()
        return
    for child in network.children():
        _reset(child)
