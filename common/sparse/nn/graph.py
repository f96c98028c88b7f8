"""What the layers make of a PyG ``edge_index``: a sorted edge list, and where each edge went.

The kernels want edges by destination, PyG's layers take them in any order, so the first layer
sorts.  What it has made is kept until ``edge_index`` is freed or changed in place, so that a net,
and a training on one graph, sort once.  An :class:`EdgeList` is taken as it is.

Sources and destinations of a bipartite graph are numbered apart; the list has as many nodes as the
larger side, and node features are padded with zero rows up to there.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from common.errors import UserError
from common.graph.edges import EdgeList, plain_tensor

FLOWS = ("source_to_target", "target_to_source")

_Key = tuple[int, int, int, bool, bool]  # version, sources, destinations, against flow, loops


class Loops(NamedTuple):
    """Self-loops replaced by one for each node, behind the other edges."""

    edge_index: Tensor  # (2, E' + nodes)
    others: Tensor  # (E',) int64, the edges that are no loops
    nodes: int  # that have one


@dataclass(frozen=True, eq=False)
class Graph:
    """Sorted edges of one ``edge_index``.

    Attributes:
        edges: over max(sources, destinations) nodes.
        order: (E,) int64, edge e is the ``order[e]``-th of ``edge_index``; None: as they stood.
        sources: nodes that messages come from.
        destinations: nodes that receive them.
        loops: what stands in place of ``edge_index`` where self-loops were replaced.
    """

    edges: EdgeList
    order: Tensor | None
    sources: int
    destinations: int
    loops: Loops | None = None

    def sorted(self, values: Tensor) -> Tensor:
        """Rows (E, ...) in the order of ``edge_index``, in that of ``edges``."""
        return values if self.order is None else values.index_select(0, self.order)

    def as_given(self, values: Tensor) -> Tensor:
        """Rows (E, ...) in the order of ``edges``, in that of ``edge_index``."""
        if self.order is None:
            return values
        back = torch.empty_like(self.order)
        back[self.order] = torch.arange(len(back), device=back.device)
        return values.index_select(0, back)

    def padded(self, rows: Tensor) -> Tensor:
        """Node rows (sources or destinations, ...) with zero rows up to the nodes of ``edges``."""
        short = self.edges.num_nodes - len(rows)
        return F.pad(rows, [0, 0] * (rows.dim() - 1) + [0, short]) if short else rows


# edge_index or edge list -> what was made of it
_of_tensors: MutableMapping[Tensor, dict[_Key, Graph]] = WeakTensorKeyDictionary()
_of_lists: MutableMapping[EdgeList, dict[_Key, Graph]] = WeakKeyDictionary()


def graph_of(
    edge_index: Tensor | EdgeList,
    sources: int,
    destinations: int,
    flow: str,
    *,
    self_loops: bool = False,
) -> Graph:
    """Sort and check; see the module docstring.

    Args:
        edge_index: (2, E) integer tensor, PyG's ``EdgeIndex``, or an edge list.
        sources: nodes that messages come from: ``edge_index[0]``, or ``[1]`` against the flow.
        destinations: nodes that receive them.
        flow: one of ``FLOWS``.
        self_loops: whether self-loops are replaced by one for each node that is on both sides.

    Raises:
        ValueError: on a wrong type or shape, or an index that names no node.
    """
    against = flow == "target_to_source"
    if isinstance(edge_index, EdgeList):
        _check_list(edge_index, max(sources, destinations), against)
        if not self_loops:
            return Graph(edge_index, None, sources, destinations)
        given, version, kept = edge_index.edge_index, 0, _of_lists.setdefault(edge_index, {})
    else:
        given = _checked(edge_index)
        # Of a tensor made in inference mode nobody records whether it is changed in place.
        lasting = not given.is_inference()
        version = given._version if lasting else 0
        kept = _of_tensors.setdefault(edge_index, {}) if lasting else {}
    key = (version, sources, destinations, against, self_loops)
    if key not in kept:
        for stale in [old for old in kept if old[0] != version]:
            del kept[stale]
        loops = _loops(given, min(sources, destinations)) if self_loops else None
        index = given if loops is None else loops.edge_index
        edges, order = _sorted(index.flip(0) if against else index, sources, destinations)
        kept[key] = Graph(edges, order, sources, destinations, loops)
    return kept[key]


def _check_list(edges: EdgeList, nodes: int, against: bool) -> None:
    if against:
        raise UserError(
            "flow='target_to_source' with an EdgeList, whose edges lead from src to dst: give "
            "edge_index, or leave out flow"
        )
    if nodes != edges.num_nodes:
        raise UserError(f"the EdgeList has {edges.num_nodes} nodes, x has rows for {nodes}")


def _checked(edge_index: object) -> Tensor:
    if not isinstance(edge_index, Tensor) or edge_index.layout != torch.strided:
        given = getattr(edge_index, "layout", type(edge_index).__name__)
        raise UserError(
            "edge_index must be a (2, E) tensor, an EdgeIndex or an EdgeList; sparse matrices "
            f"(adj_t) are not supported, got {given}: use torch_geometric.utils.to_edge_index"
        )
    plain = plain_tensor(edge_index)
    if plain.dim() != 2 or plain.shape[0] != 2:
        raise UserError(f"edge_index must have shape (2, E), got {tuple(plain.shape)}")
    return plain


def _loops(edge_index: Tensor, nodes: int) -> Loops:
    others = (edge_index[0] != edge_index[1]).nonzero().squeeze(1)
    each = torch.arange(nodes, dtype=edge_index.dtype, device=edge_index.device)
    kept = edge_index.index_select(1, others)
    return Loops(torch.cat([kept, each.expand(2, -1)], 1), others, nodes)


def _sorted(edge_index: Tensor, sources: int, destinations: int) -> tuple[EdgeList, Tensor | None]:
    """The list, and its order; None where the edges were in order already."""
    if sources != destinations and edge_index.numel():
        sides = (("sources", sources), ("destinations", destinations))
        for row, (name, count) in zip(edge_index, sides, strict=True):
            if int(row.max()) >= count:
                raise UserError(
                    f"edge_index names node {int(row.max())} among {count} {name}; x must hold "
                    "(sources, destinations), with a row for each node"
                )
    edges, order = EdgeList.with_order(edge_index, max(sources, destinations))
    return edges, None if bool((order.diff() == 1).all()) else order
