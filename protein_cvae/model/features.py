"""Invariant features of a backbone: of every residue, and of every edge of a residue graph.

Everything is seen from the rigid frame of a residue (columns of R: x along CA-C, y towards N), so
a rotation or translation of the structure changes nothing, while its mirror image differs: local
coordinates change sign along z.  Lengths enter in units of 10 Å.

Nodes of a graph are the present residues of a padded batch, in order; ``ResidueGraph.nodes`` says
which of the B·L places each one is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from common.graph.edges import EdgeList
from common.graph.knn import knn_edges
from protein_cvae.geometry.dihedrals import backbone_dihedrals
from protein_cvae.geometry.frames import residue_frames, to_local

ANGSTROM = 0.1  # network units per Å
_SHIFTS = (-2, -1, 1, 2)
RESIDUE_FEATURES = len(_SHIFTS) * (9 + 1) + 3 * (2 + 1)
NUM_RADIAL = 16
_RADIAL_MAX = 2.0  # 20 Å
_MAX_SEPARATION = 16  # in sequence; farther, and other chains, share one class
NUM_SEPARATIONS = 2 * _MAX_SEPARATION + 2
EDGE_FEATURES = NUM_RADIAL + 1 + 3 + 9


@dataclass(frozen=True)
class ResidueGraph:
    """Edges between the N present residues of a batch.

    Attributes:
        nodes: (N,) int64 place of each node in the flattened (B·L).
        edges: chain and spatial edges.
        separation: (E,) int64 class of the distance in sequence, in [0, NUM_SEPARATIONS).
    """

    nodes: Tensor
    edges: EdgeList
    separation: Tensor


def residue_features(
    coordinates: Tensor, mask: Tensor, bonded: Tensor, chain_index: Tensor
) -> Tensor:
    """What a residue sees of its neighbours in sequence, and its dihedrals.

    Args:
        coordinates: (B, L, 3, 3) N, CA, C, Å.
        mask: (B, L) bool, residue present.
        bonded: (B, L) bool, i is bonded to i + 1.
        chain_index: (B, L) int64.

    Returns:
        (B, L, RESIDUE_FEATURES): local coordinates of N, CA, C of the residues at -2, -1, 1, 2 and
        whether each is there; sin and cos of φ, ψ, ω and whether each is defined.  What is not
        there is 0.
    """
    rotation, origin = residue_frames(coordinates, mask)
    length = mask.shape[1]
    parts = []
    place = torch.arange(length, device=mask.device)
    for shift in _SHIFTS:
        other = (place + shift).clamp(0, length - 1)
        inside = (place + shift >= 0) & (place + shift < length)
        seen = inside & mask & mask[:, other] & (chain_index == chain_index[:, other])
        local = to_local(coordinates[:, other], rotation, origin) * ANGSTROM  # (B, L, 3, 3)
        local = torch.where(seen[..., None, None], local, torch.zeros_like(local))
        parts += [local.flatten(2), seen[..., None].to(local)]
    angles, defined = backbone_dihedrals(coordinates, bonded, mask)
    for angle, known in zip(angles, defined, strict=True):
        known = known.to(angle)
        parts.append(torch.stack([angle.sin() * known, angle.cos() * known, known], dim=-1))
    return torch.cat(parts, dim=-1)


@dataclass(frozen=True)
class ChainGraph:
    """What the graphs of a batch share while its residues move: its edges along the chains.

    Attributes:
        nodes: (N,) int64 place of each node in the flattened (B·L).
        ptr: (B + 1,) int64, nodes of item b are ptr[b] to ptr[b + 1].
        chain, position: (N,) int64.
        keys: (E,) int64, sorted, destination · N + source of each edge.
    """

    nodes: Tensor
    ptr: Tensor
    chain: Tensor
    position: Tensor
    keys: Tensor

    @staticmethod
    def build(
        mask: Tensor, chain_index: Tensor, residue_index: Tensor, neighbors: int
    ) -> ChainGraph:
        """Connect each present residue to ``neighbors`` in sequence, half of them on each side.

        Args:
            mask: (B, L) bool.
            chain_index: (B, L) int64.
            residue_index: (B, L) int64, position in the chain.
            neighbors: even, or the odd one is left out.
        """
        b, length = mask.shape
        device = mask.device
        nodes = mask.flatten().nonzero().squeeze(1)  # (N,)
        n = len(nodes)
        at = torch.full((b * length,), -1, dtype=torch.int64, device=device)
        at[nodes] = torch.arange(n, device=device)
        half = neighbors // 2
        # In rising order, so that the keys are sorted.
        shifts = torch.cat([torch.arange(-half, 0), torch.arange(1, half + 1)]).to(device)
        column = nodes % length
        place = column[:, None] + shifts  # (N, 2 half)
        inside = (place >= 0) & (place < length)
        source = at[((nodes - column)[:, None] + place.clamp(0, length - 1))]
        dst = torch.arange(n, device=device)[:, None].expand_as(source)
        chain = chain_index.flatten()[nodes]
        keep = inside & (source >= 0)
        keep &= chain[source.clamp_min(0)] == chain[:, None]
        keys = dst[keep] * n + source[keep]
        ptr = torch.cat([nodes.new_zeros(1), mask.sum(1).cumsum(0)])
        return ChainGraph(nodes, ptr, chain, residue_index.flatten()[nodes], keys)

    def with_near(self, origin: Tensor, neighbors: int) -> ResidueGraph:
        """These edges and those of the kNN graph over the CA of each item.

        Args:
            origin: (N, 3) CA of the nodes, Å.
            neighbors: k; 0 for none.
        """
        n, keys = len(self.nodes), self.keys
        if neighbors > 0:
            near = knn_edges(origin.detach(), neighbors, self.ptr)
            # Unique keys are sorted: by destination, then by source.
            keys = torch.cat([keys, near.dst * n + near.src]).unique()
        dst, src = keys // max(n, 1), keys % max(n, 1)
        degree = torch.bincount(dst, minlength=n)
        edges = EdgeList(src, dst, torch.cat([degree.new_zeros(1), degree.cumsum(0)]))
        gap = (self.position[src] - self.position[dst]).clamp(-_MAX_SEPARATION, _MAX_SEPARATION)
        other = torch.full_like(gap, NUM_SEPARATIONS - 1)
        same = self.chain[src] == self.chain[dst]
        return ResidueGraph(self.nodes, edges, torch.where(same, gap + _MAX_SEPARATION, other))


def residue_graph(
    origin: Tensor,
    mask: Tensor,
    chain_index: Tensor,
    residue_index: Tensor,
    chain_neighbors: int,
    spatial_neighbors: int,
) -> ResidueGraph:
    """Connect each present residue to those near it in sequence and in space.

    Args:
        origin: (B, L, 3) CA, Å.
        mask: (B, L) bool.
        chain_index: (B, L) int64.
        residue_index: (B, L) int64, position in the chain.
        chain_neighbors: neighbours in sequence, half of them on each side.
        spatial_neighbors: k of the kNN graph over CA of one item; 0 for none.
    """
    chain = ChainGraph.build(mask, chain_index, residue_index, chain_neighbors)
    return chain.with_near(origin.reshape(-1, 3)[chain.nodes], spatial_neighbors)


def edge_features(rotation: Tensor, origin: Tensor, edges: EdgeList) -> Tensor:
    """How the source of each edge lies in the frame of its destination.

    Args:
        rotation: (N, 3, 3) frames.
        origin: (N, 3) CA, Å.
        edges: E edges.

    Returns:
        (E, EDGE_FEATURES): Gaussians of the distance on [0, 20] Å, log(1 + d), the direction, and
        the orientation R_iᵀ R_j.
    """
    # index_select, not brackets: its backward adds in an order that threads do not change.
    turn = rotation.index_select(0, edges.dst)  # (E, 3, 3)
    gap = (origin.index_select(0, edges.src) - origin.index_select(0, edges.dst)) * ANGSTROM
    local = (gap[:, None, :] @ turn)[:, 0]  # (E, 3)
    # The small constant keeps the gradient finite where two residues coincide.
    distance = (local.square().sum(1) + 1e-8).sqrt()
    radial = radial_basis(distance)
    direction = local / (distance + 0.1)[:, None]
    orientation = (turn.mT @ rotation.index_select(0, edges.src)).flatten(1)
    return torch.cat([radial, distance.log1p()[:, None], direction, orientation], dim=1)


def radial_basis(distance: Tensor) -> Tensor:
    """(...) in units of 10 Å -> (..., 16) Gaussians with centres on [0, 20] Å."""
    centres = torch.linspace(
        0.0, _RADIAL_MAX, NUM_RADIAL, dtype=distance.dtype, device=distance.device
    )
    width = _RADIAL_MAX / (NUM_RADIAL - 1)
    return (-0.5 * ((distance[..., None] - centres) / width).square()).exp()
