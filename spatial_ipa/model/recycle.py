"""What one recycle of a network reads."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from common.graph.edges import EdgeList


@dataclass(frozen=True, eq=False)
class Recycle:
    """States, positions and graph of one recycle; N nodes, E edges and H heads.

    Attributes:
        step: its number, from 0.
        carried: what it reads beside positions: (N, c_s) states, which hold directions in
            :mod:`spatial_ipa.model.frames`; the evidence (E, H) of a model without states.
        x: (N, 2) positions.
        edges: the graph to attend over.
        gate: (E,) gate logits to be weighed by beta, (E, H) logits that are ready to be added, or
            None.
        graph: (N,) graph of each node.
        num_graphs: B.
    """

    step: int
    carried: Tensor
    x: Tensor
    edges: EdgeList
    gate: Tensor | None
    graph: Tensor
    num_graphs: int
