"""Blocks of encoder and conditioner: perceptron, positions, Transformer, graph attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.sparse import neighbor_attention
from protein_cvae.model.features import (
    ANGSTROM,
    EDGE_FEATURES,
    NUM_SEPARATIONS,
    ResidueGraph,
    edge_features,
)


def perceptron(d_in: int, d_hidden: int, d_out: int, *, zero: bool = False) -> nn.Sequential:
    """Two layers with GELU between; with ``zero`` the second starts at 0."""
    last = nn.Linear(d_hidden, d_out)
    if zero:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(d_in, d_hidden), nn.GELU(), last)


def sinusoidal(position: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """(...) int64 positions -> (..., width) sines and cosines (Vaswani et al. 2017, §3.5)."""
    half = width // 2
    rate = torch.arange(half, dtype=dtype, device=position.device)
    rate = (-math.log(10_000.0) * rate / max(half, 1)).exp()
    angle = position[..., None].to(dtype) * rate
    waves = torch.cat([angle.sin(), angle.cos()], dim=-1)
    return nn.functional.pad(waves, (0, width - 2 * half))


class GraphAttention(nn.Module):
    """Attention of residues over their edges, with a bias per head from the edge's geometry.

        a_ij = softmax_j(q_i·k_j / √d + b(edge_ij)),
        out_i = W_o [concat_h Σ_j a_ij v_j,  R_iᵀ Σ_h w_h Σ_j a_ij (x_j − x_i)]

    with R_i, x_i the frame of residue i.  Cost and memory grow with the number of edges.

    Args:
        width: of the states; divisible by ``heads``.
        heads: attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise UserError(f"width must be divisible by heads, got {width} and {heads}")
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_bias = nn.Linear(EDGE_FEATURES, heads)
        self.separation = nn.Embedding(NUM_SEPARATIONS, heads)
        self.step = nn.Parameter(torch.ones(heads))
        self.to_out = nn.Linear(width + 3, width)
        nn.init.zeros_(self.separation.weight)

    def forward(self, h: Tensor, rotation: Tensor, origin: Tensor, graph: ResidueGraph) -> Tensor:
        """States (N, C) at frames (N, 3, 3), (N, 3) in Å -> (N, C)."""
        n, width = h.shape
        q, k, v = self.to_qkv(h).view(n, 3, self.heads, width // self.heads).unbind(1)
        bias = self.to_bias(edge_features(rotation, origin, graph.edges))
        bias = bias + self.separation(graph.separation)
        each = torch.eye(3, dtype=h.dtype, device=h.device)
        out, towards = neighbor_attention(
            q.contiguous(),
            k.contiguous(),
            v.contiguous(),
            origin * ANGSTROM,
            graph.edges,
            self.step[:, None, None] * each,
            bias=bias,
        )
        local = (towards[:, None, :] @ rotation)[:, 0]
        return self.to_out(torch.cat([out.reshape(n, width), local], dim=1))


class Trunk(nn.Module):
    """H + α·graph attention, then pre-norm Transformer layers over all residues of an item.

    α is learned, starting at 0.1.

    Args:
        width: of the states.
        layers: Transformer layers; 0 for none.
        heads: of both kinds of attention.
        feed_forward: width of the feed-forward layers.
        dropout: in the Transformer layers.
    """

    def __init__(
        self, width: int, layers: int, heads: int, feed_forward: int, dropout: float
    ) -> None:
        super().__init__()
        self.graph_attention = GraphAttention(width, heads)
        self.alpha = nn.Parameter(torch.tensor(0.1))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                heads,
                feed_forward,
                dropout,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        h: Tensor,
        mask: Tensor,
        rotation: Tensor,
        origin: Tensor,
        graph: ResidueGraph | None,
    ) -> Tensor:
        """Mix padded states.

        Args:
            h: (B, L, C).
            mask: (B, L) bool.
            rotation: (B, L, 3, 3), origin: (B, L, 3) Å, frames of the structure of the graph.
            graph: over some of the B·L residues; None where no structure is known.
        """
        b, length, width = h.shape
        if graph is not None:
            flat = h.reshape(b * length, width)
            mixed = self.graph_attention(
                flat[graph.nodes],
                rotation.reshape(-1, 3, 3)[graph.nodes],
                origin.reshape(-1, 3)[graph.nodes],
                graph,
            )
            h = flat.index_add(0, graph.nodes, self.alpha * mixed).view(b, length, width)
        for layer in self.layers:
            h = layer(h, src_key_padding_mask=~mask)
        h = self.norm(h)
        return torch.where(mask[..., None], h, torch.zeros_like(h))


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of (B, L, C) over the residues of (B, L) that are present -> (B, C)."""
    weight = mask.to(x)[..., None]
    return (x * weight).sum(1) / weight.sum(1).clamp_min(1)
