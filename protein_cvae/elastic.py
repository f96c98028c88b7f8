"""Elastic-network prior of the displacements of a template.

The displacements w (L, 3) of all CA atoms of a template follow

    w ~ N(m, Q⁻¹),   Q = Σ_{edges ij} k_ij B_ij ⊗ [ν 1 + (1 − ν) n_ij n_ijᵀ] + diag(g_i) ⊗ 1

with B_ij = (e_i − e_j)(e_i − e_j)ᵀ and n_ij the unit vector between the residues: the anisotropic
network model (Atilgan et al. 2001) with an isotropic share ν as in the Gaussian network model
(Haliloglu et al. 1997), stiffness k_ij per contact and ground springs g_i per residue, all learned.
Neighbouring residues therefore move together, and a flexible tail far, in one draw.  Everything
is kept in the residue frames of the template, Rᵢᵀ Q_ij R_j, so that neither the distribution of
the latents nor a draw from it depends on the pose.

The posterior of a residue is isotropic, N(μ_i, σ_i² 1), so that with L residues

    KL = ½ [Σ_i σ_i² tr Q_ii + (μ − m)ᵀ Q (μ − m) − 3L − log det Q − 3 Σ_i log σ_i²].

All 3L modes count alike there, and nearly all of them are local, so the KL hardly sees the few
softest ones, which decide how far conformers spread: trained on it alone, a prior spread three
times too wide.  The marginals of single residues are therefore trained as well (a composite
likelihood, Lindsay 1988):

    −log p = ½ Σ_i [3 log v_i + (|μ_i − m_i|² + 3 σ_i²) / v_i],   v_i = tr (Q⁻¹)_ii / 3.

Q is factorised as a dense 3L x 3L matrix: 0.5 s and 36 MB at L = 1,000.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from protein_cvae.features import (
    ANGSTROM,
    NUM_RADIAL,
    NUM_SEPARATIONS,
    ResidueGraph,
    radial_basis,
)

# Stiffness and ground springs lie within e^±7 Å⁻²: displacements between 0.03 and 33 Å.
_LOG_RANGE = 7.0
_LOG_STIFFNESS = 1.0
_LOG_GROUND = 1.0


@dataclass(frozen=True)
class ElasticNetwork:
    """Attributes:

    precision: (B, 3L, 3L), Å⁻², the identity at absent residues.
    factor: (B, 3L, 3L) lower Cholesky factor.
    mask: (B, L) residues present.
    """

    precision: Tensor
    factor: Tensor
    mask: Tensor

    def kl(self, mean: Tensor, log_var: Tensor, prior_mean: Tensor) -> Tensor:
        """(B,) nats of posteriors N(mean, e^log_var) from N(prior_mean, Q⁻¹).

        Args:
            mean: (B, L, 3), Å, each in the frame of its residue.
            log_var: (B, L).
            prior_mean: (B, L, 3), Å.
        """
        present = self.mask.to(mean)
        trace = self.precision.diagonal(dim1=1, dim2=2).unflatten(1, (-1, 3)).sum(2)  # (B, L)
        gap = ((mean - prior_mean) * present[..., None]).flatten(1)
        energy = (gap * (self.precision @ gap[..., None])[..., 0]).sum(1)
        log_det = 2 * self.factor.diagonal(dim1=1, dim2=2).log().sum(1)
        spread = (present * (log_var.exp() * trace - 3 - 3 * log_var)).sum(1)
        return 0.5 * (spread + energy - log_det)

    def marginal(self, mean: Tensor, log_var: Tensor, prior_mean: Tensor) -> Tensor:
        """(B,) nats, up to a constant per residue: the residues one by one; arguments as above."""
        covariance = torch.cholesky_inverse(self.factor)
        variance = covariance.diagonal(dim1=1, dim2=2).unflatten(1, (-1, 3)).mean(2)  # (B, L)
        square = (mean - prior_mean).square().sum(-1) + 3 * log_var.exp()
        nats = 0.5 * (3 * variance.log() + square / variance)
        return torch.where(self.mask, nats, torch.zeros_like(nats)).sum(1)

    def sample(self, noise: Tensor) -> Tensor:
        """Draw from N(0, Q⁻¹): standard normal (B, L, 3) -> (B, L, 3), Å, in residue frames.

        The rigid motion of the whole is still in the draw; superposition removes it.
        """
        flat = noise.flatten(1)[..., None]
        drawn = torch.linalg.solve_triangular(self.factor.mT, flat, upper=True)
        return drawn[..., 0].unflatten(1, (-1, 3)) * self.mask.to(noise)[..., None]


class ElasticPrior(nn.Module):
    """Learned springs between residues of a template.

    Args:
        width: of the conditioning states.
        hidden: of the perceptrons.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.separation = nn.Embedding(NUM_SEPARATIONS, hidden)
        self.state = nn.Linear(width, hidden)
        self.distance = nn.Linear(NUM_RADIAL, hidden)
        self.isotropy = nn.Parameter(torch.zeros(()))
        self.stiffness = nn.Sequential(nn.GELU(), _constant_at_start(hidden, _LOG_STIFFNESS))
        self.ground = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), _constant_at_start(hidden, _LOG_GROUND)
        )

    def forward(
        self, c: Tensor, rotation: Tensor, origin: Tensor, mask: Tensor, graph: ResidueGraph
    ) -> ElasticNetwork:
        """Build the network of each template.

        Args:
            c: (B, L, width) conditioning states.
            rotation: (B, L, 3, 3) residue frames of the template.
            origin: (B, L, 3) its CA, Å.
            mask: (B, L) bool, residue present.
            graph: contacts; directions do not matter.
        """
        b, length = mask.shape
        place, edges = graph.nodes, graph.edges
        # One spring per contact, whichever of its residues has the other among its neighbours.
        n = len(place)
        low, high = torch.minimum(edges.src, edges.dst), torch.maximum(edges.src, edges.dst)
        pair, chosen = (low * n + high).unique(return_inverse=True)
        low, high = pair // max(n, 1), pair % max(n, 1)
        # The sequence classes of the two directions mirror each other: take the one from below.
        gap = torch.zeros_like(pair).scatter(
            0, chosen, torch.maximum(graph.separation, _mirrored(graph.separation))
        )
        i, j = place[low], place[high]  # places in B·L
        states = self.state(c).reshape(b * length, -1)
        position = origin.reshape(-1, 3)
        difference = position[i] - position[j]
        distance = (difference.square().sum(1) + 1e-8).sqrt()
        hidden = states[i] + states[j] + self.separation(gap)
        hidden = hidden + self.distance(radial_basis(distance * ANGSTROM))
        stiffness = _positive(self.stiffness(hidden)[:, 0])
        unit = difference / distance[:, None]
        share = self.isotropy.sigmoid()
        each = torch.eye(3, dtype=c.dtype, device=c.device)
        block = share * each + (1 - share) * unit[:, :, None] * unit[:, None, :]
        block = stiffness[:, None, None] * block  # (P, 3, 3)
        ground = _positive(self.ground(c)[..., 0]).reshape(-1)
        ground = torch.where(mask.reshape(-1), ground, torch.ones_like(ground))

        everywhere = torch.arange(b * length, device=c.device)
        frame = rotation.reshape(-1, 3, 3)
        here, there = frame[i], frame[j]
        across = -here.mT @ block @ there
        rows = torch.cat([i, j, i, j, everywhere])
        columns = torch.cat([i, j, j, i, everywhere])
        values = torch.cat(
            [
                here.mT @ block @ here,
                there.mT @ block @ there,
                across,
                across.mT,
                ground[:, None, None] * each,
            ]
        )
        index = rows * length + columns % length  # row already says which item
        dense = c.new_zeros(b * length * length, 3, 3).index_add(0, index, values)
        dense = dense.view(b, length, length, 3, 3).transpose(2, 3)
        precision = dense.reshape(b, 3 * length, 3 * length)
        return ElasticNetwork(precision, torch.linalg.cholesky(precision), mask)


def _constant_at_start(width: int, value: float) -> nn.Linear:
    layer = nn.Linear(width, 1)
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, value)
    return layer


def _positive(x: Tensor) -> Tensor:
    return (_LOG_RANGE * (x / _LOG_RANGE).tanh()).exp()


def _mirrored(separation: Tensor) -> Tensor:
    """The class of the opposite direction; the last class, of other chains, stays."""
    last = NUM_SEPARATIONS - 1
    return torch.where(separation == last, separation, last - 1 - separation)
