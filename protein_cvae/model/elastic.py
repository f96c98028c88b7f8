"""Elastic-network prior of the displacements of a template.

The displacements w (L, 3) of all CA atoms of a template follow a Gaussian of unknown amplitude,

    w | a ~ N(0, e^{2 τ a} S Q⁻¹),   a ~ N(0, 1),
    Q = Σ_{i<j} k_ij B_ij ⊗ [ν 1 + (1 − ν) n_ij n_ijᵀ] + Q_rigid,

with B_ij = (e_i − e_j)(e_i − e_j)ᵀ and n_ij the unit vector between two residues: the anisotropic
network model (Atilgan et al. 2001) with an isotropic share ν as in the Gaussian network model
(Haliloglu et al. 1997).  There is no cutoff; stiffness falls with distance (Yang, Song and
Jernigan 2009), rises with the contact numbers c of both residues, so that tails are soft, and is
raised by b_s between residues 1 to 3 apart in the chain:

    k_ij = (d_ij / 5 Å)^-6 (c_i c_j / 100)^{5/2} e^{b_s},
    c_i = max(1, Σ_{j≠i} exp(−d_ij² / 2 r²)).

Q_rigid holds the whole in place, as superposition does: with T (3L, 6) the rigid motions and W
the diagonal of D_i = Σ_j k_ij over its mean,

    Q_rigid = D̄ W T (Tᵀ W T)⁻¹ Tᵀ W.

Nothing here is trained.  Springs that a network could bend per residue, and a mean that it could
move, remembered the training proteins: proteins never seen were spread 1.85 times too far in the
core.  The constants were chosen among some thirty laws by the
distance of held-out models to the nearest draw on families that are not test families, S so that
the core spreads as it does there.  What one structure does not tell is the amplitude, which
differs e-fold between ensembles: hence a, one for each conformer.

Everything is kept in the residue frames of the template, Rᵢᵀ Q_ij R_j, so that neither the
distribution of the latents nor a draw from it depends on the pose.

The posterior of a residue is isotropic, N(μ_i, σ_i² 1).  With the most probable amplitude,
s = e^{τ a}, in place of its posterior, and P = Q / S,

    KL = ½ [(Σ_i σ_i² tr P_ii + μᵀ P μ) / s² + 6L log s − 3L − log det P − 3 Σ_i log σ_i²] + ½ a².

Q is factorised as a dense 3L x 3L matrix: 0.5 s, two matrices of 36 MB kept and a peak of some
440 MB at L = 1,000.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.errors import UserError

# Constants of the module's text: τ, exponents, ν, r in Å, unit distance in Å and b_s.
AMPLITUDE = 0.7
_DISTANCE_POWER = 6.0
_CONTACT_POWER = 5.0
_ISOTROPIC = 0.05
_CONTACT_RADIUS = 7.4
_UNIT_DISTANCE = 5.0
_UNIT_CONTACTS = 10.0
_CHAIN = (2.0, 1.0, 0.5)
# Closer than this residues do not come; it keeps the stiffness of damaged templates finite (Å).
_NEAREST = 2.5
# S, Å² per unit of stiffness.
_SCALE = 0.6
# Far more than are needed: convergence is quadratic near the minimum.
_NEWTON_STEPS = 30


@dataclass(frozen=True)
class ElasticNetwork:
    """Attributes:

    precision: (B, 3L, 3L), P in Å⁻², the identity at absent residues.
    factor: (B, 3L, 3L) lower Cholesky factor.
    mask: (B, L) residues present.
    moved: (B, 3L) unit vector: standard normal noise along it only translates the whole.
    """

    precision: Tensor
    factor: Tensor
    mask: Tensor
    moved: Tensor

    def kl(self, mean: Tensor, log_var: Tensor, prior_mean: Tensor) -> Tensor:
        """(B,) nats of posteriors N(mean, e^log_var) from the prior about ``prior_mean``.

        Args:
            mean: (B, L, 3), Å, each in the frame of its residue.
            log_var: (B, L).
            prior_mean: (B, L, 3), Å.
        """
        present = self.mask.to(mean)
        trace = self.precision.diagonal(dim1=1, dim2=2).unflatten(1, (-1, 3)).sum(2)  # (B, L)
        gap = ((mean - prior_mean) * present[..., None]).flatten(1)
        energy = (gap * (self.precision @ gap[..., None])[..., 0]).sum(1)
        energy = energy + (present * log_var.exp() * trace).sum(1)
        a = most_probable_amplitude(energy, 3 * present.sum(1))
        log_det = 2 * self.factor.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = (present * (6 * AMPLITUDE * a[:, None] - 3 - 3 * log_var)).sum(1)
        energy = energy * (-2 * AMPLITUDE * a).exp()
        return 0.5 * (energy + constant - log_det + a.square())

    def variance(self) -> Tensor:
        """(B, L) Å² along each axis at the median amplitude, a = 0, mean over axes."""
        covariance = torch.cholesky_inverse(self.factor)
        return covariance.diagonal(dim1=1, dim2=2).unflatten(1, (-1, 3)).mean(2)

    def sample(self, noise: Tensor) -> Tensor:
        """Draw about 0: standard normal (B, L, 3) -> (B, L, 3), Å, in residue frames.

        The part of the noise that would only translate the whole sets the amplitude instead; it
        is independent of the rest.
        """
        flat = noise.flatten(1) * self.mask.repeat_interleave(3, dim=1).to(noise)
        a = (flat * self.moved).sum(1, keepdim=True)
        flat = (AMPLITUDE * a).exp() * (flat - a * self.moved)
        if len(flat) > 1 and self.factor.stride(0) == 0:
            # One network for all: the solver would copy its factor for every draw.
            drawn = torch.linalg.solve_triangular(self.factor[0].mT, flat.mT, upper=True).mT
        else:
            column = flat[..., None]
            drawn = torch.linalg.solve_triangular(self.factor.mT, column, upper=True)[..., 0]
        return drawn.unflatten(1, (-1, 3)) * self.mask.to(noise)[..., None]


@torch.no_grad()
def elastic_network(
    rotation: Tensor,
    origin: Tensor,
    mask: Tensor,
    residue_index: Tensor,
    chain_index: Tensor,
) -> ElasticNetwork:
    """Build the network of each template.

    Args:
        rotation: (B, L, 3, 3) residue frames of the template.
        origin: (B, L, 3) its CA, Å.
        mask: (B, L) bool, residue present.
        residue_index: (B, L) int64, position in the chain.
        chain_index: (B, L) int64.
    """
    # In double precision: the softest modes are a millionth of the stiffest.
    frames, position = rotation.double(), origin.double()
    blocks, stiffness = springs(position, mask, residue_index, chain_index)
    rigid, translation = _rigid_motions(frames, position, stiffness)
    blocks = torch.einsum("biyx,bijyz,bjzw->bixjw", frames, blocks, frames)
    precision = blocks.flatten(3, 4).flatten(1, 2)
    mean = stiffness.sum(1) / mask.sum(1).clamp_min(1)
    weight = stiffness / mean.clamp_min(1e-12)[:, None]
    weighted = rigid * weight.repeat_interleave(3, dim=1)[..., None]
    each = torch.eye(6, dtype=rigid.dtype, device=rigid.device)
    # The small constant: a single residue cannot turn.
    gram = rigid.mT @ weighted + 1e-6 * each
    held = weighted @ torch.linalg.solve(gram, weighted.mT)
    precision = precision + mean[:, None, None] * held
    precision = precision / _SCALE
    absent = (stiffness == 0).repeat_interleave(3, dim=1).to(precision)
    precision = (precision + precision.mT) / 2 + torch.diag_embed(absent)
    factor = torch.linalg.cholesky(precision)
    moved = (factor.mT @ translation[..., None])[..., 0]
    moved = moved / moved.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return ElasticNetwork(precision.to(origin), factor.to(origin), mask, moved.to(origin))


def springs(
    origin: Tensor, mask: Tensor, residue_index: Tensor, chain_index: Tensor
) -> tuple[Tensor, Tensor]:
    """The sum over springs of Q, for S = 1, in one system of coordinates.

    Args:
        origin: (B, L, 3) CA, Å.
        mask: (B, L) bool.
        residue_index: (B, L) int64.
        chain_index: (B, L) int64.

    Returns:
        (B, L, L, 3, 3) blocks, Å⁻², and (B, L) stiffness D_i; 0 at absent residues.
    """
    length = mask.shape[1]
    gap = origin[:, :, None] - origin[:, None]  # (B, L, L, 3)
    distance = gap.square().sum(-1).sqrt()
    pair = mask[:, :, None] & mask[:, None]
    pair = pair & ~torch.eye(length, dtype=torch.bool, device=mask.device)
    near = (-0.5 * (distance / _CONTACT_RADIUS).square()).exp() * pair
    # At least one contact: a residue far from all others stays attached.
    contacts = (near.sum(2).clamp_min(1.0) / _UNIT_CONTACTS).pow(_CONTACT_POWER / 2)  # (B, L)
    stiffness = (distance.clamp_min(_NEAREST) / _UNIT_DISTANCE).pow(-_DISTANCE_POWER)
    stiffness = stiffness * contacts[:, :, None] * contacts[:, None] * pair
    apart = (residue_index[:, :, None] - residue_index[:, None]).abs()
    same = chain_index[:, :, None] == chain_index[:, None]
    for separation, raised in enumerate(_CHAIN, start=1):
        along = same & (apart == separation)
        stiffness = torch.where(along, stiffness * math.exp(raised), stiffness)
    unit = gap / distance.clamp_min(1e-6)[..., None]
    each = torch.eye(3, dtype=origin.dtype, device=origin.device)
    direction = _ISOTROPIC * each + (1 - _ISOTROPIC) * unit[..., :, None] * unit[..., None, :]
    blocks = -stiffness[..., None, None] * direction
    place = torch.arange(length, device=mask.device)
    blocks[:, place, place] = -blocks.sum(2)
    return blocks, stiffness.sum(2)


def most_probable_amplitude(energy: Tensor, count: Tensor) -> Tensor:
    """(B,) the a that minimises ½ (energy e^{−2τa} + 2 τ count a + a²), without gradient.

    The function is convex; the minimum solves a = τ (energy e^{−2τa} − count).

    Args:
        energy: (B,) twice the energy at a = 0, not negative.
        count: (B,) degrees of freedom.
    """
    with torch.no_grad():
        # Left of the minimum the steps of Newton's method never pass it: start there.
        ratio = (energy / count.clamp_min(1)).clamp_min(1e-30)
        a = torch.minimum(ratio.log() / (2 * AMPLITUDE), torch.zeros_like(energy))
        a = torch.where(count > 0, a, torch.zeros_like(a)) - AMPLITUDE * count * (energy <= 0)
        for _ in range(_NEWTON_STEPS):
            pull = energy * (-2 * AMPLITUDE * a).exp()
            slope = a - AMPLITUDE * (pull - count)
            a = a - slope / (1 + 2 * AMPLITUDE**2 * pull)
        return a


def _rigid_motions(rotation: Tensor, origin: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rigid motions of the residues, in their frames; 0 where ``weight`` (B, L) is.

    Returns:
        (B, 3L, 6) translations and rotations about the weighted centre, and (B, 3L) a translation
        whose direction turns with the template: the weighted sum of the first axes of its frames.
    """
    total = weight.sum(1).clamp_min(1e-12)[:, None]
    centre = (weight[..., None] * origin).sum(1) / total  # (B, 3)
    shape = (*origin.shape[:2], 3, 3)
    shifts = torch.eye(3, dtype=origin.dtype, device=origin.device).expand(shape)
    arm = ((origin - centre[:, None]) / 10)[:, :, None].expand(shape)
    motions = torch.cat([shifts, torch.linalg.cross(shifts, arm, dim=-1)], dim=2)  # (B, L, 6, 3)
    first = (weight[..., None] * rotation[..., 0]).sum(1) / total  # (B, 3)
    motions = torch.cat([motions, first[:, None, None].expand(-1, shape[1], -1, -1)], dim=2)
    motions = (motions @ rotation) * (weight > 0).to(origin)[..., None, None]
    columns = motions.transpose(2, 3).flatten(1, 2)  # (B, 3L, 7)
    return columns[..., :6], columns[..., 6]


def refuse_learned_network(
    module: nn.Module,
    state_dict: dict[str, Tensor],
    prefix: str,
    local_metadata: dict[str, object],
    strict: bool,
    missing_keys: list[str],
    unexpected_keys: list[str],
    error_msgs: list[str],
) -> None:
    """Hook of ``load_state_dict``: refuse weights of a learned prior of the shifts, by name."""
    old = [k for k in state_dict if k.startswith((f"{prefix}elastic.", f"{prefix}shift_prior."))]
    if old:
        raise UserError(
            f"the checkpoint holds {old[0]} and {len(old) - 1} more weights of a learned prior of "
            "the shifts, expected none: the prior is now the fixed elastic network of "
            "protein_cvae/model/elastic.py; train the model anew"
        )
