"""IPALiteModel: embeddings and a graph in, 2D coordinates out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.graph.edges import EdgeList
from spatial_ipa.geometry.gauge import gauge_fix
from spatial_ipa.model.block import DistanceTerm, IPALiteBlock

Form = Literal["points", "states"]


@dataclass(frozen=True)
class Layout:
    """What the model returns.

    Attributes:
        x: (N, 2) gauge-fixed coordinates.
        trajectory: R + 1 tensors (N, 2): the start and the result of each recycle.
        states: R tensors (N, c_s): the states each recycle read, for diagnostics; none of a model
            without states.
    """

    x: Tensor
    trajectory: list[Tensor]
    states: list[Tensor]


@dataclass(frozen=True)
class NetworkSettings:
    """Size and form of the network.

    Attributes:
        d_input: width of the embeddings H.
        c_s: width of the states; only ``states`` has any.
        heads: attention heads.
        c_head: width of a head; of ``states``.
        recycles: passes through the one shared block.
        noise_std: noise on the initial coordinates, where noise is given (in training).
        beta: weight of the gate logits in the attention.
        distance_term: see :class:`~spatial_ipa.model.block.IPALiteBlock`; of ``states``.
        form: ``points``: attention moves positions that start at the regression in the common frame
            (:mod:`spatial_ipa.model.points`).  ``states``: attention moves states and positions,
            both of which start at perceptrons of H (:class:`IPALiteModel`).

    Raises:
        ValueError: on an unknown form, or a width or number of passes below 1.
    """

    d_input: int = 128
    c_s: int = 96
    heads: int = 4
    c_head: int = 32
    recycles: int = 5
    noise_std: float = 0.05
    beta: float = 2.0
    distance_term: DistanceTerm = "none"
    form: Form = "points"

    def __post_init__(self) -> None:
        if self.form not in ("points", "states"):
            raise UserError(f"form must be points or states, got {self.form!r}")
        for name in ("d_input", "c_s", "heads", "c_head", "recycles"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")


class IPALiteModel(nn.Module):
    """One attention block, its weights shared over the recycles.

    ``s = MLP(H)``, ``X = gauge_fix(MLP(H))``, then ``recycles`` times block and gauge fixing.
    154,674 parameters by default, 154,678 with the monotone distance term.

    Args:
        settings: widths, depth and weights; see :class:`NetworkSettings`.
    """

    def __init__(self, settings: NetworkSettings = NetworkSettings()) -> None:
        super().__init__()
        c = settings
        self.settings, self.recycles, self.noise_std = c, c.recycles, c.noise_std
        self.to_state = nn.Sequential(
            nn.Linear(c.d_input, 2 * c.c_s), nn.GELU(), nn.Linear(2 * c.c_s, c.c_s)
        )
        self.to_start = nn.Sequential(nn.Linear(c.d_input, c.c_s), nn.GELU(), nn.Linear(c.c_s, 2))
        self.block = IPALiteBlock(c.c_s, c.heads, c.c_head, c.beta, c.distance_term)

    def forward(
        self,
        h: Tensor,
        edges: EdgeList,
        gate: Tensor | None,
        graph: Tensor | None = None,
        num_graphs: int = 1,
        start_noise: Tensor | None = None,
        start: Tensor | None = None,
    ) -> Layout:
        """Place the nodes of one graph or of a disjoint union.

        Args:
            h: (N, d_input) embeddings.
            edges: the graph to attend over.
            gate: (E,) gate logits, or None for plain attention.
            graph: (N,) graph of each node; one graph when left out.
            num_graphs: B.
            start_noise: (N, 2) standard normal draws, scaled by ``noise_std`` and added to the
                start; no noise when left out.
            start: not used; this model computes its own from ``h``.
        """
        if graph is None:
            graph = torch.zeros(h.shape[0], dtype=torch.int64, device=h.device)
        s, own = self.to_state(h), self.to_start(h)
        if start_noise is not None:
            own = own + self.noise_std * start_noise
        x = gauge_fix(own, graph, num_graphs)
        trajectory, states = [x], []
        for _ in range(self.recycles):
            states.append(s)
            s, x = self.block(s, x, edges, gate, graph, num_graphs)
            x = gauge_fix(x, graph, num_graphs)
            trajectory.append(x)
        return Layout(x, trajectory, states)
