"""Elastic network of a template: the normal modes its displacements are described in.

The displacements w (L, 3) of all CA atoms of a template have, before anything is learned, the
covariance of an elastic network of unknown amplitude,

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

Its eigenvectors are the modes, its eigenvalues over S their variances, softest first.  Springs
that a network could bend per residue, and a mean that it could move, remembered the training
proteins: proteins never seen were spread 1.85 times too far in the core.  The constants were
chosen among some thirty laws by the distance of held-out models to the nearest draw on families
that are not test families, S so that the core spreads as it does there.  What may be learned is
how variance falls along the modes (:mod:`protein_cvae.model.channel`).

Everything is kept in the residue frames of the template, Rᵢᵀ Q_ij R_j, so that neither the modes
nor what is coded in them depends on the pose.  The sign of a mode is that which makes the sum of
the cubes of its components positive.

Q is decomposed as a dense 3L x 3L matrix in double precision (the softest modes are a millionth of
the stiffest): 0.05 s of one core at L = 200, cubic in L, 36 MB of modes kept at L = 1,000.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

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
NUM_FEATURES = 5
"""Number of :attr:`NormalModes.features`."""


@dataclass(frozen=True)
class NormalModes:
    """Attributes:

    variance: (B, 3L) Å², of the law at its median amplitude, softest mode first; 0 of modes of
        absent residues.
    vectors: (B, 3L, 3L) orthonormal, one mode per column, in residue frames.
    mask: (B, L) bool, residues present.
    """

    variance: Tensor
    vectors: Tensor
    mask: Tensor

    def coefficients(self, shift: Tensor) -> Tensor:
        """(B, L, 3) Å in residue frames -> (B, 3L) Å along the modes."""
        flat = shift.flatten(1) * self.mask.repeat_interleave(3, dim=1).to(shift)
        return self._apply(self.vectors.mT, flat)

    def shift(self, coefficients: Tensor) -> Tensor:
        """Inverse of :meth:`coefficients`; 0 at absent residues."""
        return self._apply(self.vectors, coefficients).unflatten(1, (-1, 3))

    def softest(self, count: int) -> Tensor:
        """(3L,) bool: the first ``count`` modes."""
        return torch.arange(self.variance.shape[1], device=self.variance.device) < count

    def residue_variance(self) -> Tensor:
        """(B, L) Å² along each axis at the median amplitude, mean over axes."""
        variance = self._apply(self.vectors.square(), self.variance)
        return variance.unflatten(1, (-1, 3)).mean(2)

    def inside(self, residues: Tensor) -> Tensor:
        """(B, 3L) share of each mode that lies in ``residues`` (B, L), 1 or 0."""
        return self._apply(self.vectors.square().mT, residues.repeat_interleave(3, dim=1))

    @cached_property
    def features(self) -> Tensor:
        """(B, 3L, 5) of each mode: log σ, its place, its collectivity, log L, and its looseness.

        Collectivity is e^H / L with H the entropy of the shares of the residues in the mode.
        Looseness is the mean, by these shares, of log m_i less its median, m_i Å² the fluctuation
        of residue i (:meth:`residue_variance`).
        """
        seen, variance = self.mask, self.variance
        count = seen.sum(1).clamp_min(1).to(variance)  # (B,)
        place = torch.arange(1, variance.shape[1] + 1, device=count.device).to(count)
        share = self.vectors.square().unflatten(1, (-1, 3)).sum(2)  # (B, L, 3L)
        entropy = -(share * share.clamp_min(1e-12).log()).sum(1)
        wide = count[:, None].expand_as(entropy)
        loose = self.residue_variance().clamp_min(1e-8).log()  # (B, L)
        # The lower median; by a sort, since median is refused on CUDA where results must repeat.
        ranked = torch.where(seen, loose, torch.inf).sort(1).values
        middle = ranked.gather(1, (seen.sum(1, keepdim=True) - 1).clamp_min(0) // 2)
        loose = torch.where(seen, loose - middle, 0.0)
        features = [
            0.5 * variance.clamp_min(1e-8).log(),
            (place / (3 * wide)).log(),
            entropy.exp() / wide,
            (wide / 100).log(),
            (share * loose[..., None]).sum(1),
        ]
        found = torch.stack(features, dim=-1)
        return torch.where(variance[..., None] > 0, found, torch.zeros_like(found))

    def expand(self, count: int) -> NormalModes:
        """Those of the one item ``count`` times (views, no copies)."""
        parts = (self.variance, self.vectors, self.mask)
        return NormalModes(*(x.expand(count, *x.shape[1:]) for x in parts))

    def _apply(self, matrix: Tensor, x: Tensor) -> Tensor:
        if len(x) > 1 and matrix.stride(0) == 0:
            return x @ matrix[0].mT  # one matrix for all: not copied for every item
        return (matrix @ x[..., None])[..., 0]


@torch.no_grad()
def normal_modes(
    rotation: Tensor,
    origin: Tensor,
    mask: Tensor,
    residue_index: Tensor,
    chain_index: Tensor,
) -> NormalModes:
    """The modes of each template.

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
    rigid = _rigid_motions(frames, position, stiffness)
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
    precision = (precision + precision.mT) / (2 * _SCALE)
    absent = (stiffness == 0).repeat_interleave(3, dim=1)
    # Last of all, far from the others, so that padding mixes with none of them.
    stiffest = precision.diagonal(dim1=1, dim2=2).sum(1) + 1
    precision = precision + torch.diag_embed(stiffest[:, None] * absent)
    eigenvalues, vectors = torch.linalg.eigh(precision)
    vectors = vectors * torch.where(vectors.pow(3).sum(1, keepdim=True) < 0, -1.0, 1.0)
    place = torch.arange(absent.shape[1], device=mask.device)
    variance = torch.where(place < (~absent).sum(1, keepdim=True), 1 / eigenvalues, 0.0)
    return NormalModes(variance.to(origin), vectors.to(origin), stiffness > 0)


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


def _rigid_motions(rotation: Tensor, origin: Tensor, weight: Tensor) -> Tensor:
    """(B, 3L, 6) translations and rotations about the weighted centre, in the residues' frames.

    0 where ``weight`` (B, L) is.
    """
    total = weight.sum(1).clamp_min(1e-12)[:, None]
    centre = (weight[..., None] * origin).sum(1) / total  # (B, 3)
    shape = (*origin.shape[:2], 3, 3)
    shifts = torch.eye(3, dtype=origin.dtype, device=origin.device).expand(shape)
    arm = ((origin - centre[:, None]) / 10)[:, :, None].expand(shape)
    motions = torch.cat([shifts, torch.linalg.cross(shifts, arm, dim=-1)], dim=2)  # (B, L, 6, 3)
    motions = (motions @ rotation) * (weight > 0).to(origin)[..., None, None]
    return motions.transpose(2, 3).flatten(1, 2)


def refuse_other_latents(
    module: nn.Module,
    state_dict: dict[str, Tensor],
    prefix: str,
    local_metadata: dict[str, object],
    strict: bool,
    missing_keys: list[str],
    unexpected_keys: list[str],
    error_msgs: list[str],
) -> None:
    """Hook of ``load_state_dict``: refuse weights of a network with other latents, by name."""
    marks = ("elastic.", "shift_prior.", "shift_log_var.", "detail_head.")
    old = [k for k in state_dict if k.startswith(tuple(prefix + mark for mark in marks))]
    if old:
        raise UserError(
            f"the checkpoint holds {old[0]} and {len(old) - 1} more weights of latents that are no "
            "longer: motion is now coded in the normal modes of the template "
            "(protein_cvae/model/channel.py); train the model anew"
        )
    coded = any(k.startswith(f"{prefix}channel.") for k in state_dict)
    for name, own in module.state_dict().items() if coded else ():
        there = state_dict.get(prefix + name)
        if name.startswith("channel.") and (there is None or there.shape != own.shape):
            found = "has no" if there is None else f"has {tuple(there.shape)} of"
            raise UserError(
                f"the checkpoint {found} {name}, which this version has as {tuple(own.shape)}: the "
                "prior of the motion has changed since (CHANGELOG.md); train the model anew"
            )
