"""The output layer of generation: valid geometry, Ramachandran outliers and clashes taken out.

From the projected input, ``steps`` times: move, then project again.  A move is the sum of

torsion  Residues whose energy E(φ, ψ) exceeds a ceiling E_c below their outlier limit take the
         Polyak step (Δφ, Δψ) = −min((E − E_c) / |∇E|², a / |∇E|) ∇E, a the largest step, carried
         to the atoms by the derivatives of φ and ψ.
clash    Pairs nearer than their least distance d₀ are moved apart by (d₀ − d) / 2 each: CA–CA, and
         the other pairs of N, CA, C, of residues at least three apart in the chain.
tether   A share of x₀ − x, x₀ the input, which falls to 0 at the last step.

Residues below the ceiling and without clash feel the tether only.  Conformers that need nothing are
only projected.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from common.errors import UserError
from protein_cvae.geometry.constants import CA
from protein_cvae.geometry.dihedrals import backbone_dihedrals, check_backbone
from protein_cvae.geometry.projection import ProjectionOptions, project
from protein_cvae.geometry.ramachandran import (
    outlier_energy,
    ramachandran_class,
    ramachandran_energy,
)

TorsionEnergy = Callable[[Tensor, Tensor, Tensor], Tensor]  # φ, ψ, class -> nats

_STIFFNESS = 2.5  # rad² Å⁻², |∂φ/∂x|² of ideal geometry


@dataclass(frozen=True)
class FinishOptions:
    """How to finish.

    Attributes:
        steps: moves; 0 projects only.
        margin: nats by which the ceiling lies below the outlier limit.
        torsion_step: largest change of (φ, ψ) in a move, radians.
        relaxation: factor on torsion moves; the projection takes part of each back.
        tether: share of the way back to the input in the first move.
        ca_distance: least CA–CA distance, Å.
        atom_distance: least distance of the other pairs of backbone atoms, Å.
        pairs_every: moves between two searches for near pairs.
        projection: of the input and of the result.
        inner: after each move.
    """

    steps: int = 16
    margin: float = 0.5
    torsion_step: float = math.radians(20.0)
    relaxation: float = 2.0
    tether: float = 0.1
    ca_distance: float = 3.8
    atom_distance: float = 3.0
    pairs_every: int = 6
    projection: ProjectionOptions = field(default_factory=ProjectionOptions)
    inner: ProjectionOptions = field(
        default_factory=lambda: ProjectionOptions(coarse=0, fine=1, pull=0, fine_solves=6, rounds=1)
    )

    def __post_init__(self) -> None:
        if self.steps < 0 or self.pairs_every < 1 or not 0 <= self.tether <= 1:
            raise UserError(
                "steps must not be negative, pairs_every positive and tether in [0, 1], got "
                f"{self.steps}, {self.pairs_every} and {self.tether}"
            )


@torch.no_grad()
def finish(
    coordinates: Tensor,
    bonded: Tensor,
    mask: Tensor,
    aatype: Tensor,
    cis: Tensor | None = None,
    options: FinishOptions | None = None,
    energy: TorsionEnergy = ramachandran_energy,
) -> Tensor:
    """Conformers with valid geometry, few Ramachandran outliers and no clashes; no gradient.

    Args:
        coordinates: (..., L, 3, 3), Å: residue, atom (N, CA, C), xyz.
        bonded: (..., L) bool, residue i is bonded to i + 1.
        mask: (..., L) bool, residue present; others may hold anything.
        aatype: (..., L) int64, index in ``residues.ALPHABET``.
        cis: (..., L) bool, the peptide bond after residue i is cis; None for all trans.
        options: None for the defaults.
        energy: −log density of (φ, ψ) by residue class, nats; differentiable.  The ceiling stays
            that of ``ramachandran.outlier_energy``.

    Returns:
        (..., L, 3, 3); 0 where masked.  The last operation is :func:`project`, so that geometry is
        inside tolerance wherever projection alone would bring it there.  Each conformer is treated
        for itself, moved by rotations and translations as the input is.

    Raises:
        ValueError: where shapes or types do not fit, or a present atom is not finite.
    """
    options = options or FinishOptions()
    check_backbone(coordinates, bonded, mask)
    if aatype.shape != mask.shape:
        raise UserError(f"aatype must have shape {tuple(mask.shape)}, got {tuple(aatype.shape)}")
    x = project(coordinates, bonded, mask, cis, options.projection)
    shape = x.shape
    cis = torch.zeros_like(mask) if cis is None else cis
    start = torch.where(mask[..., None, None], coordinates, torch.zeros_like(coordinates))
    start, x = (value.reshape(-1, *shape[-3:]) for value in (start, x))
    bonded, mask, aatype, cis = (
        value.reshape(-1, shape[-3]) for value in (bonded, mask, aatype, cis)
    )
    omega = torch.where(cis, 0.0, math.pi)
    kind = ramachandran_class(aatype, omega, bonded)
    ceiling = outlier_energy(x.dtype).to(x.device)[kind] - options.margin

    result = x.clone()
    index = torch.arange(len(x), device=x.device)
    pairs = _near_pairs(x, mask, bonded, options)
    for step in range(options.steps):
        if step and step % options.pairs_every == 0:
            pairs = _near_pairs(x, mask[index], bonded[index], options)
        torsion, needs_torsion = _torsion_move(
            x, bonded[index], mask[index], kind[index], ceiling[index], energy, options
        )
        clash, needs_clash = _clash_move(x, pairs, options)
        needed = needs_torsion | needs_clash
        if not bool(needed.all()):
            result[index[~needed]] = x[~needed]
            index = index[needed]
            if len(index) == 0:
                break
            x, torsion, clash = x[needed], torsion[needed], clash[needed]
            pairs = _near_pairs(x, mask[index], bonded[index], options)
        share = options.tether * (1 - (step + 1) / options.steps)
        x = x + torsion + clash + share * (start[index] - x)
        x = project(x, bonded[index], mask[index], cis[index], options.inner)
    if len(index):
        result[index] = x
    return project(result, bonded, mask, cis, options.projection).reshape(shape)


def _torsion_move(
    x: Tensor,
    bonded: Tensor,
    mask: Tensor,
    kind: Tensor,
    ceiling: Tensor,
    energy: TorsionEnergy,
    options: FinishOptions,
) -> tuple[Tensor, Tensor]:
    """Moves (B, L, 3, 3) towards energies below the ceiling; (B,) bool, who needs any."""
    with torch.enable_grad():
        atoms = x.detach().requires_grad_()
        angles, defined = backbone_dihedrals(atoms, bonded, mask)
        phi, psi = (value.detach().requires_grad_() for value in angles[:2])
        value = energy(phi, psi, kind)
        slope = torch.stack(torch.autograd.grad(value.sum(), (phi, psi)), dim=-1)  # (B, L, 2)
        excess = (value.detach() - ceiling).clamp(min=0) * (defined.phi & defined.psi)
        steepness = slope.norm(dim=-1).clamp(min=1e-3)
        length = torch.minimum(excess / steepness, excess.new_tensor(options.torsion_step))
        change = -length[..., None] * slope / steepness[..., None]
        work = (change[..., 0] * angles.phi + change[..., 1] * angles.psi).sum()
        (move,) = torch.autograd.grad(work, atoms)
    return options.relaxation * move / _STIFFNESS, (excess > 0).any(-1)


Pairs = tuple[Tensor, Tensor, Tensor]  # conformer, residue i, residue j > i


def _near_pairs(x: Tensor, mask: Tensor, bonded: Tensor, options: FinishOptions) -> Pairs:
    """Pairs of residues that can come to clash soon, three or more apart or in other chains."""
    reach = options.ca_distance + 4.0
    found: list[Tensor] = []
    chain = torch.cat([torch.zeros_like(bonded[:, :1]), ~bonded[:, :-1]], dim=-1).cumsum(-1)
    length = x.shape[1]
    block = max(1, 4_000_000 // max(1, len(x) * length))  # rows at once: bounds the memory
    column = torch.arange(length, device=x.device)
    for first in range(0, length, block):
        row = column[first : first + block]
        near = torch.cdist(x[:, row, CA], x[:, :, CA]) < reach
        near &= mask[:, row, None] & mask[:, None, :]
        gap = column[None, :] - row[:, None]
        apart = (gap >= 3) | ((gap > 0) & (chain[:, row, None] != chain[:, None, :]))
        conformer, i, j = (near & apart).nonzero(as_tuple=True)
        found.append(torch.stack([conformer, i + first, j]))
    conformer, i, j = torch.cat(found, dim=1)
    return conformer, i, j


def _clash_move(x: Tensor, pairs: Pairs, options: FinishOptions) -> tuple[Tensor, Tensor]:
    """Moves (B, L, 3, 3) that part clashing atoms; (B,) bool, which conformers need any."""
    conformer, i, j = pairs
    gap = x[conformer, j][:, None, :, :] - x[conformer, i][:, :, None, :]  # (P, 3, 3, 3)
    distance = (gap.square().sum(-1) + 1e-12).sqrt()
    least = torch.full((3, 3), options.atom_distance, dtype=x.dtype, device=x.device)
    least[CA, CA] = options.ca_distance
    overlap = (least - distance).clamp(min=0)  # (P, 3, 3)
    push = 0.5 * (overlap / distance)[..., None] * gap
    move = torch.zeros_like(x)
    move.index_put_((conformer, j), push.sum(1), accumulate=True)
    move.index_put_((conformer, i), -push.sum(2), accumulate=True)
    needed = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    needed[conformer[(overlap > 0).flatten(1).any(-1)]] = True
    return move, needed
