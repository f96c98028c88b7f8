"""Torsion angles of four points, and φ, ψ, ω of a backbone.

With b₁ = p₁ − p₀, b₂ = p₂ − p₁, b₃ = p₃ − p₂ the torsion is

    atan2(|b₂| b₁·(b₂ × b₃), (b₁ × b₂)·(b₂ × b₃))   in (−π, π],

0 where p₀ and p₃ eclipse each other and positive for a clockwise turn of p₃ seen along b₂
(IUPAC-IUB 1970, Biochemistry 9, 3471-3479).  Residue i has

    φ(i)  C(i−1), N(i), CA(i), C(i)
    ψ(i)  N(i), CA(i), C(i), N(i+1)
    ω(i)  CA(i), C(i), N(i+1), CA(i+1): the peptide bond that FOLLOWS residue i (MDTraj's order of
          atoms, stored at the first of the two residues).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from common.errors import UserError
from protein_cvae.geometry.constants import CA, C, N

# Where b₁ or b₃ is parallel to b₂ (sine below this) the torsion has no value.
_PARALLEL_SINE = 1e-4


class Torsions(NamedTuple):
    """φ, ψ, ω, each (..., L) in radians, or masks of them, each (..., L) bool."""

    phi: Tensor
    psi: Tensor
    omega: Tensor


def dihedral(p0: Tensor, p1: Tensor, p2: Tensor, p3: Tensor, mask: Tensor | None = None) -> Tensor:
    """Torsion angle about p1-p2, (...) radians in (−π, π].

    Args:
        p0, p1, p2, p3: (..., 3), Å, floating point.
        mask: (...) bool; entries that are False may hold anything, NaN included.

    Returns:
        The torsion.  It is 0 with zero gradient where masked and where it has no value (coincident
        points, three points on a line), so gradients are finite everywhere.
    """
    usable = _has_torsion(p0, p1, p2, p3)
    if mask is not None:
        usable = usable & mask
    keep = usable[..., None]
    # Unusable quadruples are replaced before anything is computed from them: a `where` after the
    # atan2 would let its infinite derivative through as NaN.
    eclipsed = p1.new_tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    p0, p1, p2, p3 = (
        torch.where(keep, point, spare)
        for point, spare in zip((p0, p1, p2, p3), eclipsed, strict=True)
    )
    b1, b2, b3 = p1 - p0, p2 - p1, p3 - p2
    normal = torch.linalg.cross(b2, b3)
    y = torch.linalg.vector_norm(b2, dim=-1) * (b1 * normal).sum(-1)
    x = (torch.linalg.cross(b1, b2) * normal).sum(-1)
    return torch.atan2(y, x)


def _has_torsion(p0: Tensor, p1: Tensor, p2: Tensor, p3: Tensor) -> Tensor:
    """(...) bool: both triples of neighbours span a plane."""
    with torch.no_grad():
        b1, b2, b3 = p1 - p0, p2 - p1, p3 - p2
        first = torch.linalg.cross(b1, b2).square().sum(-1)
        second = torch.linalg.cross(b2, b3).square().sum(-1)
        squares = [b.square().sum(-1) for b in (b1, b2, b3)]
        least = _PARALLEL_SINE**2
        # False for NaN, too.
        return (first > least * squares[0] * squares[1]) & (
            second > least * squares[1] * squares[2]
        )


def peptide_mask(bonded: Tensor, mask: Tensor) -> Tensor:
    """(..., L) bool: residue i is bonded to i + 1 and both are present; the last is False.

    Args:
        bonded: (..., L) bool, residue i is covalently bonded to i + 1.
        mask: (..., L) bool, residue present.

    Raises:
        ValueError: where the two differ in shape or are not bool.
    """
    if bonded.shape != mask.shape or bonded.dtype != torch.bool or mask.dtype != torch.bool:
        raise UserError(
            "bonded and mask must be bool tensors of one shape (..., L), got "
            f"{bonded.dtype} {tuple(bonded.shape)} and {mask.dtype} {tuple(mask.shape)}"
        )
    follower = torch.cat([mask[..., 1:], torch.zeros_like(mask[..., :1])], dim=-1)
    return bonded & mask & follower


def backbone_dihedrals(
    coordinates: Tensor, bonded: Tensor, mask: Tensor
) -> tuple[Torsions, Torsions]:
    """φ, ψ, ω of every residue and where each is defined.

    Args:
        coordinates: (..., L, 3, 3), Å: residue, atom (N, CA, C), xyz.
        bonded: (..., L) bool, residue i is bonded to i + 1.
        mask: (..., L) bool, residue present.

    Returns:
        ``(angles, defined)``: angles (..., L) in radians, 0 where not defined; φ is not defined at
        the first residue of a chain or after a break, ψ and ω at the last or before one.

    Raises:
        ValueError: where the shapes do not fit.
    """
    check_backbone(coordinates, bonded, mask)
    link = peptide_mask(bonded, mask)  # (..., L)
    n, ca, c = (coordinates[..., atom, :] for atom in (N, CA, C))  # (..., L, 3)
    n_next, ca_next = (_follower(atom) for atom in (n, ca))
    c_last = torch.cat([c[..., :1, :], c[..., :-1, :]], dim=-2)
    phi_defined = torch.cat([torch.zeros_like(link[..., :1]), link[..., :-1]], dim=-1)
    angles = Torsions(
        phi=dihedral(c_last, n, ca, c, phi_defined),
        psi=dihedral(n, ca, c, n_next, link),
        omega=dihedral(ca, c, n_next, ca_next, link),
    )
    return angles, Torsions(phi=phi_defined, psi=link, omega=link)


def check_backbone(coordinates: Tensor, bonded: Tensor, mask: Tensor) -> None:
    """Raise ValueError unless coordinates are (..., L, 3, 3) and both masks (..., L) bool."""
    if coordinates.dim() < 3 or tuple(coordinates.shape[-2:]) != (3, 3):
        raise UserError(
            "coordinates must have shape (..., L, 3, 3): residue, atom (N, CA, C), xyz; got "
            f"{tuple(coordinates.shape)}"
        )
    if not coordinates.is_floating_point():
        raise UserError(f"coordinates must be floating point, got {coordinates.dtype}")
    for name, value in (("bonded", bonded), ("mask", mask)):
        if value.shape != coordinates.shape[:-2] or value.dtype != torch.bool:
            raise UserError(
                f"{name} must be bool of shape {tuple(coordinates.shape[:-2])}, got "
                f"{value.dtype} of shape {tuple(value.shape)}"
            )


def _follower(atom: Tensor) -> Tensor:
    """(..., L, 3) -> the same atom of the next residue; the last is its own follower (masked)."""
    return torch.cat([atom[..., 1:, :], atom[..., -1:, :]], dim=-2)
