"""Networks whose states and positions start at perceptrons of H: what ``form: states`` shares, and
its default, IPALiteModel."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from common.graph.edges import EdgeList
from common.sparse import attention_weights, edge_dot
from spatial_ipa.model.block import Attended, IPALiteBlock
from spatial_ipa.model.network import Attention, Layout, NetworkSettings, RecycledNetwork
from spatial_ipa.model.pair_bias import PairBias
from spatial_ipa.model.recycle import Recycle


class StatesModel(RecycledNetwork):
    """States and positions that start at perceptrons of H: what the blocks of ``states`` share.

    Args:
        settings: widths, depth and weights; see :class:`NetworkSettings`.
        pair_bias: whether attention has that of :mod:`spatial_ipa.model.pair_bias`.
    """

    def __init__(self, settings: NetworkSettings, pair_bias: bool) -> None:
        super().__init__(settings)
        c = settings
        self.to_state = nn.Sequential(
            nn.Linear(c.d_input, 2 * c.c_s), nn.GELU(), nn.Linear(2 * c.c_s, c.c_s)
        )
        self.to_start = nn.Sequential(nn.Linear(c.d_input, c.c_s), nn.GELU(), nn.Linear(c.c_s, 2))
        self.pair_bias = PairBias(c.heads) if pair_bias else None

    def first_positions(self, h: Tensor, start: Tensor | None) -> Tensor:
        own: Tensor = self.to_start(h)
        return own

    def first_state(self, h: Tensor, x: Tensor, edges: EdgeList, gate: Tensor | None) -> Tensor:
        state: Tensor = self.to_state(h)
        return state

    def edge_logits(self, h: Tensor, edges: EdgeList, gate: Tensor | None) -> Tensor | None:
        """The gate (E,), or (E, H) beta times the gate of each head and the pair bias."""
        if self.pair_bias is None and (gate is None or gate.dim() == 1):
            return gate
        bias = h.new_zeros(1, 1) if self.pair_bias is None else self.pair_bias(h, edges)
        if gate is None:
            return bias
        return bias + self.settings.beta * (gate if gate.dim() == 2 else gate[:, None])

    @abstractmethod
    def attended(self, at: Recycle) -> Attended:
        """What the attention of a recycle reads, for diagnostics."""

    def attention_at(self, at: Recycle) -> Attention:
        _, q, k, _, single, bias, distance = self.attended(at)
        beta = self.settings.beta
        weights = attention_weights(q, k, at.edges, gate=single, beta=beta, bias=bias)
        qk = edge_dot(q, k, at.edges) / q.shape[-1] ** 0.5
        logits = qk if single is None else qk + beta * single[:, None]
        logits = logits if bias is None else logits + bias
        return Attention(weights, logits, qk if self.settings.qk else None, distance)

    def layout(self, trajectory: list[Tensor], read: list[Tensor]) -> Layout:
        return Layout(trajectory[-1], trajectory, read)


class IPALiteModel(StatesModel):
    """One attention block, its weights shared over the recycles.

    ``s = MLP(H)``, ``X = gauge_fix(MLP(H))``, then ``recycles`` times block and gauge fixing.
    154,674 parameters by default, 154,678 with the monotone distance term.

    Args:
        settings: widths, depth and weights; see :class:`NetworkSettings`.
    """

    def __init__(self, settings: NetworkSettings = NetworkSettings()) -> None:
        super().__init__(settings, settings.pair_bias)
        c = settings
        self.block = IPALiteBlock(
            c.c_s,
            c.heads,
            c.c_head,
            c.beta,
            c.distance_term,
            "scaled" if c.qk else "none",
            c.point_offsets,
        )

    def recycle(self, at: Recycle) -> tuple[Tensor, Tensor]:
        state, moved = self.block(at)
        return state, moved

    def attended(self, at: Recycle) -> Attended:
        return self.block.attended(at)
