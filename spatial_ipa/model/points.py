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

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import UserError
from common.graph.edges import EdgeList
from common.sparse import distance_logits, edge_perceptron, edge_softmax, neighbor_attention
from spatial_ipa.model.network import Attention, Layout, NetworkSettings, RecycledNetwork
from spatial_ipa.model.recycle import Recycle
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
        first, _, last = self.mlp
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        learned = edge_perceptron(features, first.weight, first.bias, last.weight)
        logit = features[:, :1] * self.sharpness + learned
        if gate is None:
            return logit
        assert self.beta is not None, "built without a gate"
        return logit + gate[:, None] * self.beta

    def distance_term(self, x: Tensor, edges: EdgeList) -> Tensor:
        """(E, H) the part of the logits that positions give."""
        return distance_logits(x, edges, functional.softplus(self.gamma))

    def forward(self, evidence: Tensor, x: Tensor, edges: EdgeList) -> Tensor:
        empty = x.new_empty(x.shape[0], self.heads, 0)  # there are no states
        gamma = functional.softplus(self.gamma)
        w_x = self.alpha[:, None, None] * torch.eye(2, dtype=x.dtype, device=x.device)
        _, step = neighbor_attention(empty, empty, empty, x, edges, w_x, bias=evidence, gamma=gamma)
        return x + step


class IPAPointsModel(RecycledNetwork):
    """Start by regression, then ``recycles`` times block and gauge fixing.

    464 parameters by default, 460 without a gate.

    Args:
        settings: of the network; ``heads``, ``recycles``, ``beta`` and ``noise_std`` are used.
        gated: whether gate logits will be given.
    """

    def __init__(self, settings: NetworkSettings = NetworkSettings(), gated: bool = True) -> None:
        super().__init__(settings)
        self.block = PointAttention(settings.heads, settings.beta if gated else None)

    def first_positions(self, h: Tensor, start: Tensor | None) -> Tensor:
        if start is None:
            raise UserError(
                "network.form=points starts at positions by regression in the common frame of its "
                "training slides, and none were given"
            )
        return start

    def first_state(self, h: Tensor, x: Tensor, edges: EdgeList, gate: Tensor | None) -> Tensor:
        """(E, H) what embeddings, start and gate say; no recycle changes it."""
        return self.block.evidence(self.block.features(h, x, edges), gate)

    def recycle(self, at: Recycle) -> tuple[Tensor, Tensor]:
        moved: Tensor = self.block(at.carried, at.x, at.edges)
        return at.carried, moved

    def attention_at(self, at: Recycle) -> Attention:
        distance = self.block.distance_term(at.x, at.edges)
        logits = at.carried + distance
        return Attention(edge_softmax(logits, at.edges), logits, distance=distance)

    def layout(self, trajectory: list[Tensor], read: list[Tensor]) -> Layout:
        return Layout(trajectory[-1], trajectory, [], read[0])
