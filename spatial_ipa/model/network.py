"""Embeddings and a graph in, 2D coordinates out: settings and skeleton of the networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.graph.edges import EdgeList
from spatial_ipa.geometry.gauge import gauge_fix
from spatial_ipa.model.block import DistanceTerm
from spatial_ipa.model.recycle import Recycle

Form = Literal["points", "states"]
Block = Literal["shared", "unshared", "frames"]
GateHeads = Literal["shared", "own"]


@dataclass(frozen=True)
class Layout:
    """What the model returns.

    Attributes:
        x: (N, 2) gauge-fixed coordinates.
        trajectory: R + 1 tensors (N, 2): the start and the result of each recycle.
        states: R tensors (N, c_s): the states each recycle read, for diagnostics; none of a model
            without states.
        evidence: (E, H) what such a model reads in every recycle; None of one with states.
        told: what every recycle was told of the edges, see :meth:`RecycledNetwork.edge_logits`.
    """

    x: Tensor
    trajectory: list[Tensor]
    states: list[Tensor]
    evidence: Tensor | None = None
    told: Tensor | None = None

    def read(self, recycle: int) -> Tensor:
        """What a recycle read beside positions."""
        return self.states[recycle] if self.evidence is None else self.evidence


@dataclass(frozen=True)
class Attention:
    """Attention of one recycle, per edge and head.

    Attributes:
        weights: (E, H), a softmax over the in-edges of each node.
        logits: (E, H).
        qk: (E, H) q . k / sqrt(c), with the distances of points where there are any, a part of the
            logits; None of a model without them.
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
        recycles: passes through the block.
        noise_std: noise on the initial coordinates, where noise is given (in training).
        beta: weight of the gate logits in the attention.
        distance_term: see :class:`~spatial_ipa.model.block.IPALiteBlock`; of ``states``.
        form: ``points``: attention moves positions that start at the regression in the common frame
            (:mod:`spatial_ipa.model.points`).  ``states``: attention moves states and positions,
            both of which start at perceptrons of H (:mod:`spatial_ipa.model.states`).
        block: of ``states``.  ``shared``: one :class:`~spatial_ipa.model.block.IPALiteBlock` for
            all recycles.  ``unshared``: one of its own for each, with normalised queries and keys
            and a scheduled distance term (:mod:`spatial_ipa.model.unshared`).  ``frames``: every
            cell has a direction, too (:mod:`spatial_ipa.model.frames`).
        qk: of ``states``: false leaves attention to gate and biases.
        point_offsets: of ``states``: points per head whose distances enter the attention
            (:class:`~spatial_ipa.model.point_attention.PointOffsets`); 0 for none.
        pair_bias: of ``states``: a learned logit per head from the similarity of a pair
            (:class:`~spatial_ipa.model.pair_bias.PairBias`).
        gate_heads: of ``states``: ``shared``: one gate logit per edge; ``own``: one per head.

    Raises:
        ValueError: on an unknown value, a width or number of passes below 1, or settings that do
            not go together.
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
    block: Block = "shared"
    qk: bool = True
    point_offsets: int = 0
    pair_bias: bool = False
    gate_heads: GateHeads = "shared"

    def __post_init__(self) -> None:
        for name, kind in (("form", Form), ("block", Block), ("gate_heads", GateHeads)):
            if getattr(self, name) not in get_args(kind):
                choices = " or ".join(get_args(kind))
                raise UserError(f"{name} must be {choices}, got {getattr(self, name)!r}")
        for name in ("d_input", "c_s", "heads", "c_head", "recycles"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.point_offsets < 0:
            raise UserError(f"point_offsets must not be negative, got {self.point_offsets}")
        has = _BLOCKS_HAVE.get(self.block, ())
        if twice := [text for text, name in self.of_states().items() if name in has]:
            raise UserError(
                f"{', '.join(twice)}: not with block={self.block}, which has its own; leave it "
                "out, or set block to shared"
            )

    def of_states(self) -> dict[str, str]:
        """Names of the options of ``form=states`` that are set, by text as in ``qk=False``."""
        return {
            f"{f.name}={getattr(self, f.name)}": f.name
            for f in fields(self)
            if f.name in _STATES_ONLY and getattr(self, f.name) != f.default
        }


_STATES_ONLY = ("distance_term", "block", "qk", "point_offsets", "pair_bias", "gate_heads")
_BLOCKS_HAVE = {
    "unshared": ("distance_term", "qk"),
    "frames": ("distance_term", "qk", "point_offsets", "pair_bias"),
}


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
            gate: (E,) gate logits, (E, H) of one with a logit per head, or None for plain
                attention.
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
        gate = self.edge_logits(h, edges, gate)
        trajectory, read = [x], []
        for step in range(self.recycles):
            read.append(carried)
            at = Recycle(step, carried, x, edges, gate, graph, num_graphs)
            carried, x = self.recycle(at)
            x = gauge_fix(x, graph, num_graphs)
            trajectory.append(x)
        return replace(self.layout(trajectory, read), told=gate)

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
        told = gate if layout.told is None else layout.told
        return self.attention_at(Recycle(r, layout.read(r), x, edges, told, graph, num_graphs))

    @abstractmethod
    def attention_at(self, at: Recycle) -> Attention:
        """The attention of a recycle."""

    @abstractmethod
    def first_positions(self, h: Tensor, start: Tensor | None) -> Tensor:
        """(N, 2) positions before noise and gauge fixing."""

    @abstractmethod
    def first_state(self, h: Tensor, x: Tensor, edges: EdgeList, gate: Tensor | None) -> Tensor:
        """What the first recycle reads beside positions."""

    def edge_logits(self, h: Tensor, edges: EdgeList, gate: Tensor | None) -> Tensor | None:
        """What every recycle is told of the edges: the gate, or (E, H) logits that hold it."""
        return gate

    @abstractmethod
    def recycle(self, at: Recycle) -> tuple[Tensor, Tensor]:
        """What the next recycle reads, and positions (N, 2) before gauge fixing."""

    @abstractmethod
    def layout(self, trajectory: list[Tensor], read: list[Tensor]) -> Layout:
        """The result, from the positions and from what each recycle read beside them."""
