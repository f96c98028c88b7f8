"""Equivariant decoder: residue frames refined by message passing, then N, CA, C.

Per layer, over chain edges and the kNN graph of the current CA:

    m_ij = φ_e(h_i, h_j, edge_ij),            edge_ij: how j lies in the frame of i
    h_i += φ_h(h_i, mean_j m_ij)
    x_i += c (mean_j clamp(φ_x(m_ij)) (x_j − x_i) + R_i φ_v(h_i))
    R_i ← R_i exp(c [φ_r(h_i)]×)

c of each item says how far its start may be off (:func:`protein_cvae.model.rate.left_over`).
Vectors are made only from differences and residue frames, so the output turns and moves with the
start and mirror images are told apart.  N and C sit at ideal positions in the frame of their
residue: N-CA, CA-C and their angle are exact.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.graph.edges import EdgeList
from protein_cvae.geometry.frames import atoms_from_frames, rotation_from_axis_angle
from protein_cvae.model.features import (
    ANGSTROM,
    EDGE_FEATURES,
    NUM_SEPARATIONS,
    ChainGraph,
    edge_features,
)
from protein_cvae.model.layers import perceptron

# Largest share of a difference vector by which one edge moves a residue.
_MAX_SHARE = 0.5


class EquivariantLayer(nn.Module):
    """One round of messages; see the module's equations.

    The product of φ_e's first layer with h_i and h_j is taken once per residue, not per edge.

    Args:
        hidden: width of states and messages.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.to_pair = nn.Linear(hidden, 2 * hidden)
        self.to_edge = nn.Linear(EDGE_FEATURES, hidden, bias=False)
        self.separation = nn.Embedding(NUM_SEPARATIONS, hidden)
        self.message = nn.Sequential(nn.GELU(), nn.Linear(hidden, hidden), nn.GELU())
        self.share = nn.Linear(hidden, 1)
        self.update = perceptron(2 * hidden, hidden, hidden)
        self.motion = perceptron(hidden, hidden, 6, zero=True)
        nn.init.zeros_(self.share.weight)
        nn.init.zeros_(self.share.bias)

    def forward(
        self,
        h: Tensor,
        rotation: Tensor,
        x: Tensor,
        scale: Tensor,
        edges: EdgeList,
        separation: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """States (N, C), frames (N, 3, 3), CA (N, 3) in Å -> the same, updated; c is (N, 1)."""
        at_dst, at_src = self.to_pair(self.norm(h)).chunk(2, dim=1)
        geometry = edge_features(rotation, x, edges)
        # index_select, not brackets: its backward adds in an order that threads do not change.
        first = at_dst.index_select(0, edges.dst) + at_src.index_select(0, edges.src)
        first = first + self.to_edge(geometry)
        message = self.message(first + self.separation(separation))  # (E, C)
        share = _MAX_SHARE * self.share(message).tanh()
        moved = share * (x.index_select(0, edges.src) - x.index_select(0, edges.dst))
        count = edges.in_degree.clamp_min(1).to(h)[:, None]
        summed = h.new_zeros(len(h), message.shape[1] + 3)
        summed = summed.index_add(0, edges.dst, torch.cat([message, moved], dim=1)) / count
        mixed, step = summed.split([message.shape[1], 3], dim=1)
        h = h + self.update(torch.cat([self.norm(h), mixed], dim=1))
        push, turn = self.motion(h).split(3, dim=1)
        step = step + (rotation @ push[..., None])[..., 0] / ANGSTROM
        return h, rotation @ rotation_from_axis_angle(scale * turn), x + scale * step


class EquivariantDecoder(nn.Module):
    """Layers over frames, then atoms.

    Args:
        d_in: width of what the states are made from (latents and condition).
        hidden: width of states and messages.
        layers: rounds.
        chain_neighbors: edges along the sequence, half on each side.
        spatial_neighbors: k of the kNN graph of the current CA, rebuilt in every layer.
    """

    def __init__(
        self, d_in: int, hidden: int, layers: int, chain_neighbors: int, spatial_neighbors: int
    ) -> None:
        super().__init__()
        self.to_states = nn.Linear(d_in, hidden)
        self.layers = nn.ModuleList(EquivariantLayer(hidden) for _ in range(layers))
        self.neighbors = chain_neighbors, spatial_neighbors

    def forward(
        self,
        z: Tensor,
        rotation: Tensor,
        origin: Tensor,
        scale: Tensor,
        mask: Tensor,
        chain_index: Tensor,
        residue_index: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Refine a start.

        Args:
            z: (B, L, d_in).
            rotation: (B, L, 3, 3) start frames.
            origin: (B, L, 3) start CA, Å.
            scale: (B,), c.
            mask: (B, L) bool.
            chain_index, residue_index: (B, L) int64.

        Returns:
            coordinates (B, L, 3, 3) N, CA, C, Å, and states (B, L, hidden); 0 at absent residues.
        """
        b, length = mask.shape
        chain = ChainGraph.build(mask, chain_index, residue_index, self.neighbors[0])
        nodes = chain.nodes
        h = self.to_states(z).flatten(0, 1)[nodes]
        turn = rotation.reshape(-1, 3, 3)[nodes]
        x = origin.reshape(-1, 3)[nodes]
        each = scale[:, None].expand(b, length).reshape(-1, 1)[nodes]
        for layer in self.layers:
            graph = chain.with_near(x, self.neighbors[1])
            h, turn, x = layer(h, turn, x, each, graph.edges, graph.separation)
        atoms = atoms_from_frames(turn, x)  # (N, 3, 3)
        coordinates = atoms.new_zeros(b * length, 3, 3).index_copy(0, nodes, atoms)
        states = h.new_zeros(b * length, h.shape[1]).index_copy(0, nodes, h)
        return coordinates.view(b, length, 3, 3), states.view(b, length, -1)
