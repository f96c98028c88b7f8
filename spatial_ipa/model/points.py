r"""IPAPointsModel: positions by regression, put right by attention between alike cells.

Every cell starts at its position by regression in the common frame of the training slides
(:mod:`spatial_ipa.layout.frame_regression`): right on average, blurred, and shrunk where expression
says little.  What regression of single cells cannot know is which of the new cells are alike among
themselves.  Invariant-point attention over the candidate graph adds it.  Per head h and recycle

.. math::
    l_{ijh} &= w_h c_{ij} + \beta_h g_{ij} + \mathrm{MLP}_h(f_{ij}) - \gamma_h |x_i - x_j|^2 \\
    x_i &\leftarrow x_i + \sum_h \sum_j \mathrm{softmax}_j(l_{ijh}) \alpha_h (x_j - x_i)

with c the cosine of the embeddings, g the gate, and f the features of
:mod:`spatial_ipa.model.similarity`.  Embeddings enter through their similarities alone and
positions through their differences: no weight is tied to a direction of H, which the model could
learn by heart from a few training slides.  Turning or mirroring the start turns the layout.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import UserError
from common.graph.edges import EdgeList
from common.sparse import neighbor_attention
from spatial_ipa.geometry.gauge import gauge_fix
from spatial_ipa.geometry.walks import squared_distance
from spatial_ipa.model.network import Layout, NetworkSettings
from spatial_ipa.model.similarity import (
    DISTANCES,
    SIMILARITIES,
    distance_features,
    similarity_features,
)

_HIDDEN = 32
# Initial w, from all candidates alike to the most alike alone: heads that start equal stay equal.
_SHARPNESS = (1.0, 25.0)


class PointAttention(nn.Module):
    """The block of the module docstring; its weights are shared over the recycles.

    alpha and the last layer start at zero, so a fresh block changes nothing.

    Args:
        heads: H.
        beta: initial weight of the gate logits; None without a gate: DDP refuses a parameter that
            gets no gradient.

    Shapes:
        x (N, 2), features (E, 9), gate (E,) -> x (N, 2).
    """

    def __init__(self, heads: int, beta: float | None = 2.0) -> None:
        super().__init__()
        self.heads, self._initial_beta = heads, beta
        self.sharpness = nn.Parameter(torch.empty(heads))
        self.beta = None if beta is None else nn.Parameter(torch.empty(heads))
        self.gamma = nn.Parameter(torch.empty(heads))
        self.mlp = nn.Sequential(
            nn.Linear(SIMILARITIES + DISTANCES, _HIDDEN),
            nn.GELU(),
            nn.Linear(_HIDDEN, heads, bias=False),  # a bias would cancel in the softmax
        )
        self.alpha = nn.Parameter(torch.empty(heads))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A block that changes nothing, but for the first layer, which stays as it is drawn."""
        low, high = (torch.tensor(value).log().item() for value in _SHARPNESS)
        self.sharpness.copy_(torch.linspace(low, high, self.heads).exp())
        if self.beta is not None and self._initial_beta is not None:
            self.beta.fill_(self._initial_beta)
        for parameter in (self.gamma, *self.mlp[2].parameters(), self.alpha):
            parameter.zero_()

    @staticmethod
    def features(h: Tensor, x: Tensor, edges: EdgeList) -> Tensor:
        """(E, 9) similarities of H and distances of the start (N, 2)."""
        return torch.cat([similarity_features(h, edges), distance_features(x, edges)], dim=1)

    def evidence(self, features: Tensor, gate: Tensor | None) -> Tensor:
        """(E, H) the part of the logits that no recycle changes."""
        logit = features[:, :1] * self.sharpness + self.mlp(features)
        if gate is None:
            return logit
        assert self.beta is not None, "built without a gate"
        return logit + gate[:, None] * self.beta

    def logits(self, evidence: Tensor, x: Tensor, edges: EdgeList) -> Tensor:
        """(E, H) logits at the positions x (N, 2)."""
        square = squared_distance(x, edges.dst, edges.src)
        return evidence - functional.softplus(self.gamma) * square[:, None]

    def forward(self, evidence: Tensor, x: Tensor, edges: EdgeList) -> Tensor:
        # The fused kernel adds q . k to the bias: there are no states here, so both are zero.
        empty = x.new_zeros(x.shape[0], self.heads, 1)
        bias = self.logits(evidence, x, edges)
        w_x = self.alpha[:, None, None] * torch.eye(2, dtype=x.dtype, device=x.device)
        _, step = neighbor_attention(empty, empty, empty, x, edges, w_x, bias=bias)
        return x + step


class IPAPointsModel(nn.Module):
    """Start by regression, then ``recycles`` times block and gauge fixing.

    464 parameters by default, 460 without a gate.

    Args:
        settings: of the network; ``heads``, ``recycles``, ``beta`` and ``noise_std`` are used.
        gated: whether gate logits will be given.
    """

    def __init__(self, settings: NetworkSettings = NetworkSettings(), gated: bool = True) -> None:
        super().__init__()
        self.settings, self.recycles = settings, settings.recycles
        self.noise_std = settings.noise_std
        self.block = PointAttention(settings.heads, settings.beta if gated else None)
        self.start_of: Callable[[Tensor], Tensor] | None = None

    def start_at(self, regression: Callable[[Tensor], Tensor]) -> None:
        """Take what says where new cells start: (N, d_input) embeddings to (N, 2) positions.

        It is no parameter; a checkpoint holds it in its placement context.
        """
        self.start_of = regression

    def evidence_of(self, h: Tensor, x: Tensor, edges: EdgeList, gate: Tensor | None) -> Tensor:
        """(E, H) what embeddings, gauge-fixed start (N, 2) and gate say, before any recycle."""
        return self.block.evidence(self.block.features(h, x, edges), gate)

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
            start: (N, 2) positions by regression, in RMS radii of the tissue; computed from ``h``
                when left out.

        Raises:
            ValueError: without ``start`` before :meth:`start_at`.
        """
        if graph is None:
            graph = torch.zeros(h.shape[0], dtype=torch.int64, device=h.device)
        if start is None:
            if self.start_of is None:
                raise UserError(
                    "network.form=points starts at positions by regression; it has none before "
                    "its training slides are known"
                )
            start = self.start_of(h)
        if start_noise is not None:
            start = start + self.noise_std * start_noise
        x = gauge_fix(start, graph, num_graphs)
        evidence = self.evidence_of(h, x, edges, gate)
        trajectory = [x]
        for _ in range(self.recycles):
            x = gauge_fix(self.block(evidence, x, edges), graph, num_graphs)
            trajectory.append(x)
        return Layout(x, trajectory, [])
