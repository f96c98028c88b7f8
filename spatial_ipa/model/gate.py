"""Edge gates: one learned logit per candidate edge."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from common.graph.edges import EdgeList
from common.sparse import edge_gate
from spatial_ipa.model.similarity import cosines

_SHARPNESS = 5.0  # before training


class EdgeGateSoft(nn.Module):
    r"""An MLP on symmetric and directed features of an edge (j, i),

    .. math:: g_{ij} = \mathrm{MLP}([h_i, h_j, |h_i - h_j|, h_i \odot h_j]),

    with widths 4d -> hidden -> hidden -> 1 and GELU between.  37,057 parameters at d = 128 and
    hidden = 64.  The 4d-wide features are never built: see :func:`common.sparse.edge_gate`.

    Args:
        d_input: d, width of the embeddings.
        hidden: width of both hidden layers.
        heads: None for one logit, shared by the heads of the attention; else as many as these:
            the last layer has a row for each (37,252 parameters with 4).

    Shapes:
        h (N, d), E edges -> (E,) logits, or (E, heads).
    """

    def __init__(self, d_input: int = 128, hidden: int = 64, heads: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.w1 = nn.Parameter(torch.empty(hidden, 4 * d_input))
        self.b1 = nn.Parameter(torch.empty(hidden))
        self.w2 = nn.Parameter(torch.empty(hidden, hidden))
        self.b2 = nn.Parameter(torch.empty(hidden))
        self.w3 = nn.Parameter(torch.empty(heads or 1, hidden))
        self.b3 = nn.Parameter(torch.empty(heads or 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in +-1/sqrt(fan in), as ``nn.Linear``."""
        for weight, bias in ((self.w1, self.b1), (self.w2, self.b2), (self.w3, self.b3)):
            bound = 1 / math.sqrt(weight.shape[1])
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

    def forward(self, h: Tensor, edges: EdgeList) -> Tensor:
        hidden = self.w1, self.b1, self.w2, self.b2
        if self.heads is None:
            return edge_gate(h, edges, *hidden, self.w3, self.b3)
        # The kernel has one output; its hidden layers are computed again for each head.
        rows = zip(self.w3.split(1), self.b3.split(1), strict=True)
        return torch.stack([edge_gate(h, edges, *hidden, w, b) for w, b in rows], dim=1)


class SimilarityGate(nn.Module):
    r"""The cosine of two embeddings, with a sharpness that its KL calibrates,

    .. math:: g_{ij} = e^w \cos(h_i, h_j)

    One parameter.  Perceptrons in its place ranked neighbours worse than the cosine alone: average
    precision by cell 0.613 against 0.631 with the features of :mod:`spatial_ipa.model.similarity`
    (her2st A, six slides left out), 0.490 against 0.511 for :class:`EdgeGateSoft` (A1, the encoder
    before kernel eigenmaps).

    Shapes:
        h (N, d), E edges -> (E,) logits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_sharpness = nn.Parameter(torch.tensor(_SHARPNESS).log())

    def forward(self, h: Tensor, edges: EdgeList) -> Tensor:
        return self.log_sharpness.exp() * cosines(h, edges)


def shared_logit(gate: Tensor) -> Tensor:
    """(E,) logits of a gate, of one with a logit per head (E, H) their mean over heads."""
    return gate if gate.dim() == 1 else gate.mean(1)


EdgeGate = EdgeGateSoft | SimilarityGate
