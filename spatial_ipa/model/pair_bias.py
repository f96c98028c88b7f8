"""A logit per head from what the embeddings say of a pair, the same in every recycle."""

from __future__ import annotations

from torch import Tensor, nn

from common.graph.edges import EdgeList
from spatial_ipa.model.similarity import SIMILARITIES, similarity_features

_HIDDEN = 16


class PairBias(nn.Module):
    r"""Attention logits of an edge (j, i) from its features f of
    :func:`~spatial_ipa.model.similarity.similarity_features`,

    .. math:: b_{ijh} = w_h \cdot \mathrm{GELU}(A f_{ij} + a)

    as the pair bias of Jumper et al. 2021 (supplement, algorithm 22), which reads a learned
    representation of pairs in place of f.  w starts at zero.  A logit of all heads is what a gate
    gives; this one has no target.

    Args:
        heads: H.

    Shapes:
        h (N, d), E edges -> (E, H).
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(SIMILARITIES, _HIDDEN),
            nn.GELU(),
            nn.Linear(_HIDDEN, heads, bias=False),  # a bias would cancel in the softmax
        )
        nn.init.zeros_(self.mlp[2].weight)  # type: ignore[arg-type]

    def forward(self, h: Tensor, edges: EdgeList) -> Tensor:
        bias: Tensor = self.mlp(similarity_features(h, edges))
        return bias
