"""What a network did with one set of cells of known positions: layouts by recycle, attention.

A trace is one pass over clean embeddings.  What cells are placed at is the mean of several noisy
ones, averaged with regression (:mod:`spatial_ipa.placing.embedded`), so a trace shows the network's
share of a placement and not the placement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.graph.edges import EdgeList
from spatial_ipa.model.diagnostics import health_checks
from spatial_ipa.model.edge_scores import joins_true
from spatial_ipa.model.gate import EdgeGate
from spatial_ipa.model.minisets import Miniset
from spatial_ipa.model.network import Attention, Layout
from spatial_ipa.model.pair import Network


@dataclass(frozen=True, eq=False)
class Trace:
    """Layouts of n cells by recycle, and what the last recycle attended to.

    Attributes:
        name: of the slide.
        xy: (n, 2) true positions, mean 0 and RMS radius 1.
        trajectory: (R + 1, n, 2) gauge-fixed layouts: the start and the result of each recycle.
        edges: the graph that was attended over.
        weights: (E, H) attention of the last recycle on its edges; a row of a head sums to 1.
        is_true: (E,) bool, the edge joins true neighbours.
        rows: (n,) which cells of the slide these are, ascending.
        health: health checks by name (:mod:`spatial_ipa.model.diagnostics`); empty where they were
            not asked for.
    """

    name: str
    xy: np.ndarray
    trajectory: np.ndarray
    edges: EdgeList
    weights: np.ndarray
    is_true: np.ndarray
    rows: np.ndarray
    health: Mapping[str, float] = field(default_factory=dict)

    @property
    def heads(self) -> int:
        return int(self.weights.shape[1])

    def row(self, cell: int) -> slice:
        """The edges along which a cell attends, as a part of the list.

        Raises:
            ValueError: if there is no such cell.
        """
        if not 0 <= cell < len(self.xy):
            raise UserError(f"cells are numbered 0 to {len(self.xy) - 1}, got {cell}")
        return slice(int(self.edges.ptr[cell]), int(self.edges.ptr[cell + 1]))

    def focus(self, cell: int) -> np.ndarray:
        """(n, H) how much a cell attends to each other; NaN where there is no edge."""
        row = self.row(cell)
        seen = np.full((len(self.xy), self.heads), np.nan, dtype=np.float32)
        seen[self.edges.src[row].cpu().numpy()] = self.weights[row]
        return seen

    def true_share(self, cell: int) -> np.ndarray:
        """(H,) share of a cell's attention that goes to true neighbours."""
        row = self.row(cell)
        share: np.ndarray = (self.weights[row] * self.is_true[row, None]).sum(axis=0)
        return share


def first_graph(
    name: str, batch: Miniset, layout: Layout, edges: EdgeList, attention: Attention
) -> Trace:
    """The trace of the first graph of a union, without health checks.

    Args:
        name: of the trace.
        batch: the union.
        layout: what the network returned for it.
        edges: what it attended over.
        attention: of its last recycle.
    """
    n = int((batch.target.graph == 0).sum())
    own = _first(edges, n)
    return Trace(
        name,
        _array(batch.target.xy[:n]),
        _array(torch.stack([x[:n] for x in layout.trajectory])),
        own,
        _array(attention.weights[: own.num_edges]),
        joins_true(own, _first(batch.target.edges, n)).numpy(),
        np.arange(n),
    )


@torch.no_grad()
def trace_network(
    name: str, network: Network, gate: EdgeGate | None, batch: Miniset, rows: np.ndarray
) -> Trace:
    """The trace of one set of cells, with health checks.

    Args:
        name: of the trace.
        network: in evaluation.
        gate: weighs the candidates; None where it was trained without.
        batch: one graph.
        rows: (n,) which cells of a slide it holds.
    """
    edges = batch.candidates
    logits = None if gate is None else gate(batch.h, edges)
    layout = network(batch.h, edges, logits, start=batch.start)
    attention = network.attention(layout, edges, logits)
    checks = health_checks(network, batch, layout, edges, logits)
    health = {check: float(value) for check, value in checks.items()}
    return replace(first_graph(name, batch, layout, edges, attention), rows=rows, health=health)


def _first(edges: EdgeList, n: int) -> EdgeList:
    """The edges of the first n nodes, a graph of a union: they come first, sorted by node."""
    size = int(edges.ptr[n])
    return EdgeList(edges.src[:size].cpu(), edges.dst[:size].cpu(), edges.ptr[: n + 1].cpu())


def _array(value: Tensor) -> np.ndarray:
    held: np.ndarray = value.detach().float().cpu().numpy()
    return held
