"""A destination-sorted edge list: the one graph type of the project.

An edge (j, i) says that node i attends to, or receives from, node j.  In PyG's terms
``edge_index[0]`` holds the sources j and ``edge_index[1]`` the destinations i.  Edges are sorted by
destination and, within a destination, by source, so ``ptr`` is the row pointer of a CSR matrix
whose rows are destinations: the in-edges of node i are ``src[ptr[i]:ptr[i + 1]]``.  Node indices
are int64 or int32, which halves the memory of the graph; row pointers are always int64.

Several graphs are held as one disjoint union: their nodes are concatenated and their indices
shifted, as PyG batches them.  No operation on the union ever loops over its graphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.errors import UserError

if TYPE_CHECKING:  # heavy, and only the two conversions need it
    from torch_geometric import EdgeIndex
    from torch_geometric.data import Data


@dataclass(frozen=True, eq=False)
class EdgeList:
    """Edges sorted by destination; fields are read-only.

    Build it with :meth:`from_edge_index` from edges in any order, or with :meth:`from_csr` from
    rows that are sorted already.

    Two lists are equal only if they are the same object; compare ``edge_index`` for content.

    Beside PyG's ``EdgeIndex``, which holds the same: that is a subclass of Tensor, so that every
    operation on it passes through ``__torch_dispatch__``, which costs time and which torch.compile
    has trouble with, and importing it takes longer than importing torch.  :meth:`to_pyg` and
    :meth:`from_pyg` lead from one to the other.

    Attributes:
        src: (E,) int64 or int32, source node j of each edge.
        dst: (E,) like src, destination node i of each edge, non-decreasing.
        ptr: (N + 1,) int64, ``ptr[i]:ptr[i + 1]`` are the in-edges of node i.
        derived: what has been computed from the edges and is kept for the next call, by name.
    """

    src: Tensor
    dst: Tensor
    ptr: Tensor
    derived: dict[str, tuple[Tensor, ...]] = field(default_factory=dict, repr=False)

    @staticmethod
    def from_edge_index(edge_index: Tensor, num_nodes: int) -> EdgeList:
        """Sort and check a PyG ``edge_index``.

        Args:
            edge_index: (2, E) integer, row 0 sources, row 1 destinations, any order.  int32 stays
                int32, other types become int64.
            num_nodes: N, the number of nodes; nodes without edges are allowed.

        Raises:
            ValueError: on a wrong shape or type, or an index outside ``[0, num_nodes)``.
        """
        return EdgeList.with_order(edge_index, num_nodes)[0]

    @staticmethod
    def with_order(edge_index: Tensor, num_nodes: int) -> tuple[EdgeList, Tensor]:
        """:meth:`from_edge_index`, and which edge stands where.

        Returns:
            The list, and (E,) int64: its edge e is edge ``order[e]`` of ``edge_index``, so that
            ``edge_attr[order]`` belongs to it.  Edges given twice keep their order.
        """
        if edge_index.dim() != 2 or edge_index.shape[0] != 2:
            raise UserError(f"edge_index must have shape (2, E), got {tuple(edge_index.shape)}")
        if edge_index.is_floating_point() or edge_index.dtype == torch.bool:
            raise UserError(f"edge_index must hold integers, got {edge_index.dtype}")
        kind = torch.int32 if edge_index.dtype == torch.int32 else torch.int64
        edge_index = edge_index.long()
        if edge_index.numel():
            low, high = int(edge_index.min()), int(edge_index.max())
            if low < 0 or high >= num_nodes:
                raise UserError(
                    f"edge_index must lie in [0, {num_nodes}), got values from {low} to {high}"
                )
        order = torch.argsort(edge_index[1] * max(num_nodes, 1) + edge_index[0], stable=True)
        src, dst = edge_index[0][order], edge_index[1][order]
        return EdgeList(src.to(kind), dst.to(kind), _row_pointer(dst, num_nodes)), order

    @staticmethod
    def from_csr(ptr: Tensor, src: Tensor) -> EdgeList:
        """Take rows that are in order, refuse others.

        Args:
            ptr: (N + 1,) integer row pointer, from 0 to E, non-decreasing.
            src: (E,) int64 or int32, the sources of each row in non-decreasing order.

        Raises:
            ValueError: naming the first row or edge that is out of order or out of range.
        """
        if ptr.dim() != 1 or ptr.numel() < 1 or ptr.is_floating_point() or ptr.dtype == torch.bool:
            raise UserError(f"ptr must be an integer vector (N + 1,), got {_describe(ptr)}")
        if src.dim() != 1 or src.dtype not in (torch.int32, torch.int64):
            raise UserError(f"src must be an int32 or int64 vector (E,), got {_describe(src)}")
        if src.device != ptr.device:
            raise UserError(f"src is on {src.device} and ptr on {ptr.device}; move one of them")
        ptr, nodes = ptr.long(), ptr.numel() - 1
        degree = ptr.diff()
        if int(ptr[0]) != 0 or int(ptr[-1]) != src.numel():
            raise UserError(
                f"ptr must run from 0 to the {src.numel()} edges of src, got {int(ptr[0])} to "
                f"{int(ptr[-1])}"
            )
        if bool((degree < 0).any()):
            raise UserError(f"ptr falls after row {int((degree < 0).nonzero()[0])}")
        if src.numel() and (int(src.min()) < 0 or int(src.max()) >= nodes):
            wrong = int(((src < 0) | (src >= nodes)).nonzero()[0])
            raise UserError(f"src must lie in [0, {nodes}), got {int(src[wrong])} at edge {wrong}")
        dst = torch.repeat_interleave(torch.arange(nodes, device=src.device), degree).to(src.dtype)
        falls = (src.diff() < 0) & (dst.diff() == 0)
        if bool(falls.any()):
            edge = int(falls.nonzero()[0])
            raise UserError(
                f"sources of row {int(dst[edge])} are not sorted at edge {edge}; use "
                "EdgeList.from_edge_index for edges in any order"
            )
        return EdgeList(src, dst, ptr)

    @staticmethod
    def from_pyg(graph: EdgeIndex | Data) -> EdgeList:
        """Take a ``torch_geometric.EdgeIndex``, or the edges of a ``Data`` or ``Batch``, any order.

        Nodes are as many as the larger sparse size of an EdgeIndex, or, where it has none, as its
        largest index says; as many as ``num_nodes`` of a Data object.
        """
        if hasattr(graph, "edge_index"):
            if graph.edge_index is None or graph.num_nodes is None:
                raise UserError(f"{graph} needs edge_index and num_nodes, one of them is missing")
            return EdgeList.from_edge_index(plain_tensor(graph.edge_index), graph.num_nodes)
        nodes = max(graph.get_num_rows(), graph.get_num_cols())
        return EdgeList.from_edge_index(plain_tensor(graph), nodes)

    def to_pyg(self) -> EdgeIndex:
        """The same edges as a ``torch_geometric.EdgeIndex``, sorted by column, N x N."""
        from torch_geometric import EdgeIndex

        size = (self.num_nodes, self.num_nodes)
        return EdgeIndex(self.edge_index, sparse_size=size, sort_order="col")

    @staticmethod
    def disjoint_union(graphs: Sequence[EdgeList]) -> EdgeList:
        """Concatenate graphs, shifting the nodes of each by those before it."""
        if not graphs:
            raise UserError("disjoint_union needs at least one graph")
        nodes = torch.tensor([0] + [g.num_nodes for g in graphs]).cumsum(0).tolist()
        edges = torch.tensor([0] + [g.num_edges for g in graphs]).cumsum(0).tolist()
        src = torch.cat([g.src + shift for g, shift in zip(graphs, nodes, strict=False)])
        dst = torch.cat([g.dst + shift for g, shift in zip(graphs, nodes, strict=False)])
        ptr = torch.cat(
            [g.ptr[:-1] + shift for g, shift in zip(graphs, edges, strict=False)]
            + [graphs[-1].ptr[-1:] + edges[-2]]
        )
        return EdgeList(src, dst, ptr)

    @property
    def num_nodes(self) -> int:
        return self.ptr.numel() - 1

    @property
    def num_edges(self) -> int:
        return self.src.numel()

    @property
    def edge_index(self) -> Tensor:
        """(2, E) in PyG's order: sources, destinations."""
        return torch.stack([self.src, self.dst])

    @property
    def in_degree(self) -> Tensor:
        """(N,) int64."""
        return self.ptr[1:] - self.ptr[:-1]

    @property
    def by_source(self) -> tuple[Tensor, Tensor]:
        """The reverse CSR ``(ptr, edge)``, computed once.

        ``edge[ptr[j]:ptr[j + 1]]`` are the positions in this list of the edges that leave node j,
        in order of destination.
        """
        if "by_source" not in self.derived:
            sources, edge = torch.sort(self.src, stable=True)
            ptr = _row_pointer(sources, self.num_nodes)
            self.derived["by_source"] = (ptr, edge.to(self.src.dtype))
        ptr, edge = self.derived["by_source"]
        return ptr, edge

    def to(self, device: torch.device | str) -> EdgeList:
        kept = self.derived
        if torch.device(device).type != "cpu":  # where nothing reads them (common.graph.places)
            kept = {name: tensors for name, tensors in kept.items() if name != "places"}
        return EdgeList(
            self.src.to(device),
            self.dst.to(device),
            self.ptr.to(device),
            {name: tuple(t.to(device) for t in tensors) for name, tensors in kept.items()},
        )

    def int32(self) -> EdgeList:
        """The same edges with int32 indices.

        Raises:
            ValueError: if nodes or edges are too many to number with them.
        """
        if max(self.num_nodes, self.num_edges) > torch.iinfo(torch.int32).max:
            raise UserError(
                f"{self.num_nodes} nodes and {self.num_edges} edges do not fit int32 indices; keep "
                "int64"
            )
        return EdgeList(self.src.int(), self.dst.int(), self.ptr)

    def select(self, keep: Tensor) -> EdgeList:
        """The sub-list of edges where ``keep`` (E,) bool is true; nodes stay."""
        return EdgeList(
            self.src[keep], self.dst[keep], _row_pointer(self.dst[keep], self.num_nodes)
        )


def plain_tensor(edge_index: Tensor | EdgeIndex) -> Tensor:
    """(2, E) without what PyG's ``EdgeIndex`` adds; other tensors as they are."""
    return edge_index.as_tensor() if hasattr(edge_index, "as_tensor") else edge_index


def _row_pointer(sorted_index: Tensor, num_nodes: int) -> Tensor:
    """(N + 1,) int64 row pointer of a sorted index (E,)."""
    # Not bincount: torch.compile cannot tell the length of its result.
    rows = torch.arange(num_nodes + 1, dtype=sorted_index.dtype, device=sorted_index.device)
    return torch.searchsorted(sorted_index, rows)


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype}"
