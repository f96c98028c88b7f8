"""IPALiteModel: embeddings and a graph in, 2D coordinates out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.graph.edges import EdgeList
from common.sparse import attention_weights
from common.sparse.segments.blockwise import gather_dot
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
        evidence: (E, H) what such a model reads in every recycle; None of one with states.
    """

    x: Tensor
    trajectory: list[Tensor]
    states: list[Tensor]
    evidence: Tensor | None = None

    def read(self, recycle: int) -> Tensor:
        """What a recycle read beside positions."""
        return self.states[recycle] if self.evidence is None else self.evidence


@dataclass(frozen=True)
class Attention:
    """Attention of one recycle, per edge and head.

    Attributes:
        weights: (E, H), a softmax over the in-edges of each node.
        logits: (E, H).
        qk: (E, H) q . k / sqrt(c), a part of the logits; None of a model without states.
        distance: (E, H) the distance term, the part of the logits that depends on positions; None
            where there is none.
    """

    weights: Tensor
    logits: Tensor
    qk: Tensor | None = None
    distance: Tensor | None = None


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


class RecycledNetwork(nn.Module, ABC):
    """A start, and ``recycles`` times one block and gauge fixing: what all forms share.

    Args:
        settings: widths, depth and weights; see :class:`NetworkSettings`.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings, self.recycles = settings, settings.recycles
        self.noise_std = settings.noise_std

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
            start: (N, 2) positions by regression, in RMS radii of the tissue; not used by a form
                that has a start of its own.

        Raises:
            ValueError: if a form without a start of its own is given none.
        """
        if graph is None:
            graph = torch.zeros(h.shape[0], dtype=torch.int64, device=h.device)
        first = self.first_positions(h, start)
        if start_noise is not None:
            first = first + self.noise_std * start_noise
        x = gauge_fix(first, graph, num_graphs)
        carried = self.first_state(h, x, edges, gate)
        trajectory, read = [x], []
        for _ in range(self.recycles):
            read.append(carried)
            carried, x = self.recycle(carried, x, edges, gate, graph, num_graphs)
            x = gauge_fix(x, graph, num_graphs)
            trajectory.append(x)
        return self.layout(trajectory, read)

    def attention(
        self,
        layout: Layout,
        edges: EdgeList,
        gate: Tensor | None,
        graph: Tensor | None = None,
        num_graphs: int = 1,
        recycle: int = -1,
    ) -> Attention:
        """What each node attended to; arrays of E x H, and of E x H x c with states.

        Args:
            layout: what the model returned for these edges and this gate.
            edges: as they were given to the model, as are ``gate``, ``graph`` and ``num_graphs``.
            recycle: its number; negative ones count from the end, and the last one is taken when
                left out.

        Raises:
            IndexError: if there is no such recycle.
        """
        r = range(self.recycles)[recycle]
        x = layout.trajectory[r]
        if graph is None:
            graph = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
        return self.attention_at(layout.read(r), x, edges, gate, graph, num_graphs)

    @abstractmethod
    def attention_at(
        self,
        carried: Tensor,
        x: Tensor,
        edges: EdgeList,
        gate: Tensor | None,
        graph: Tensor,
        num_graphs: int,
    ) -> Attention:
        """The attention of a recycle that reads ``carried`` and the positions x (N, 2)."""

    @abstractmethod
    def first_positions(self, h: Tensor, start: Tensor | None) -> Tensor:
        """(N, 2) positions before noise and gauge fixing."""

    @abstractmethod
    def first_state(self, h: Tensor, x: Tensor, edges: EdgeList, gate: Tensor | None) -> Tensor:
        """What the first recycle reads beside positions."""

    @abstractmethod
    def recycle(
        self,
        carried: Tensor,
        x: Tensor,
        edges: EdgeList,
        gate: Tensor | None,
        graph: Tensor,
        num_graphs: int,
    ) -> tuple[Tensor, Tensor]:
        """What the next recycle reads, and positions (N, 2) before gauge fixing."""

    @abstractmethod
    def layout(self, trajectory: list[Tensor], read: list[Tensor]) -> Layout:
        """The result, from the positions and from what each recycle read beside them."""


class IPALiteModel(RecycledNetwork):
    """One attention block, its weights shared over the recycles.

    ``s = MLP(H)``, ``X = gauge_fix(MLP(H))``, then ``recycles`` times block and gauge fixing.
    154,674 parameters by default, 154,678 with the monotone distance term.

    Args:
        settings: widths, depth and weights; see :class:`NetworkSettings`.
    """

    def __init__(self, settings: NetworkSettings = NetworkSettings()) -> None:
        super().__init__(settings)
        c = settings
        self.to_state = nn.Sequential(
            nn.Linear(c.d_input, 2 * c.c_s), nn.GELU(), nn.Linear(2 * c.c_s, c.c_s)
        )
        self.to_start = nn.Sequential(nn.Linear(c.d_input, c.c_s), nn.GELU(), nn.Linear(c.c_s, 2))
        self.block = IPALiteBlock(c.c_s, c.heads, c.c_head, c.beta, c.distance_term)

    def first_positions(self, h: Tensor, start: Tensor | None) -> Tensor:
        own: Tensor = self.to_start(h)
        return own

    def first_state(self, h: Tensor, x: Tensor, edges: EdgeList, gate: Tensor | None) -> Tensor:
        state: Tensor = self.to_state(h)
        return state

    def recycle(
        self,
        carried: Tensor,
        x: Tensor,
        edges: EdgeList,
        gate: Tensor | None,
        graph: Tensor,
        num_graphs: int,
    ) -> tuple[Tensor, Tensor]:
        state, moved = self.block(carried, x, edges, gate, graph, num_graphs)
        return state, moved

    def layout(self, trajectory: list[Tensor], read: list[Tensor]) -> Layout:
        return Layout(trajectory[-1], trajectory, read)

    def attention_at(
        self,
        carried: Tensor,
        x: Tensor,
        edges: EdgeList,
        gate: Tensor | None,
        graph: Tensor,
        num_graphs: int,
    ) -> Attention:
        block = self.block
        _, q, k, _ = block.queries_keys_values(carried)
        distance = block.distance_bias(x, edges, graph, num_graphs)
        weights = attention_weights(q, k, edges, gate=gate, beta=block.beta, bias=distance)
        qk = gather_dot(q, k, edges) / q.shape[-1] ** 0.5
        logits = qk if gate is None else qk + block.beta * gate[:, None]
        return Attention(weights, logits if distance is None else logits + distance, qk, distance)
