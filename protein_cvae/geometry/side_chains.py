"""Side chains in frames: where Cβ stands, and how the atoms beyond it move with a backbone.

Cβ follows from N, CA and C: length and angles of Engh and Huber for the kind of residue, on the
side of L residues.  What lies beyond it is carried from another conformation as a rigid body in the
frame of N, CA and Cβ (origin Cβ, x along Cβ → CA, N in the plane y > 0).  χ₁ = N-CA-CB-CG and every
bond, angle and torsion beyond Cβ are then exactly those of that conformation, and none of the
backbone is bent by it.  (Carried in the frame of N, CA and C, χ₁ and the bond to Cβ would take up
the difference of the angles N-CA-C.)  The ring of a proline closes as well as its angles at CA
agree.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from protein_cvae.geometry import constants
from protein_cvae.geometry.constants import CA, BetaCarbon, C, N
from protein_cvae.geometry.dihedrals import dihedral
from protein_cvae.geometry.frames import (
    residue_frames,
    rotation_from_axis_angle,
    to_global,
    to_local,
)
from protein_cvae.residues import ALPHABET, SIDE_CHAINS

_KINDS = {
    "A": constants.ALANINE_CB,
    "P": constants.PROLINE_CB,
    **dict.fromkeys("ITV", constants.BRANCHED_CB),
}


def ideal_cb(coordinates: Tensor, aatype: Tensor) -> Tensor:
    """Cβ of L residues in their frames, (..., L, 3) Å; glycine gets one, too.

    Exact where N-CA-C has the angle that the residue has; where that leaves no such place, N-CA-CB
    gives way.

    Args:
        coordinates: (..., L, 3, 3) Å.
        aatype: (L,) int64, 20 for X.
    """
    kinds = [_KINDS.get(letter, constants.LINEAR_CB) for letter in ALPHABET + "X"]

    def column(name: str) -> Tensor:
        return coordinates.new_tensor([getattr(kind, name) for kind in kinds])[aatype]

    length, from_n, from_c = (column(name) for name in BetaCarbon.__dataclass_fields__)
    arms = coordinates[..., [N, C], :] - coordinates[..., CA, None, :]
    arms = arms / torch.linalg.vector_norm(arms, dim=-1, keepdim=True)
    cosine = arms.prod(-2).sum(-1).clamp(-0.999, 0.999)  # of N-CA-C
    sine = (1 - cosine.square()).sqrt()
    x = from_c.cos().expand_as(cosine)
    most = (1 - x.square()).sqrt()
    y = ((from_n.cos() - cosine * x) / sine).clamp(-most, most)
    z = -(1 - x.square() - y.square()).clamp_min(0).sqrt()
    return length[:, None] * torch.stack([x, y, z], dim=-1)


def carried(local: Tensor, source: Tensor, target: Tensor, aatype: Tensor) -> Tensor:
    """Side chains of one conformation on another backbone.

    Args:
        local: (..., L, S, 3) Å, in the residue frames of ``source``; slot 0 is Cβ.
        source: (..., L, 3, 3) Å, the backbone they come from.
        target: (..., L, 3, 3) Å, the backbone they go to.
        aatype: (L,) int64.

    Returns:
        (..., L, S, 3) Å, in the residue frames of ``target``, with Cβ from :func:`ideal_cb`.
    """
    from_atoms = _at_cb(_n_in_frame(source), local[..., 0, :])
    cb = ideal_cb(target, aatype)
    moved = to_global(to_local(local, *from_atoms), *_at_cb(_n_in_frame(target), cb))
    return torch.cat([cb[..., None, :], moved[..., 1:, :]], dim=-2)


def turned_chi1(local: Tensor, angle: float) -> Tensor:
    """Side chains (..., S, 3) Å in residue frames, χ₁ turned by ``angle`` radians."""
    axis = local[..., 0, :]  # CA is the origin
    length = torch.linalg.vector_norm(axis, dim=-1, keepdim=True)
    unit = torch.where(length > 0, axis / length, torch.zeros_like(axis))
    return local @ rotation_from_axis_angle(angle * unit).mT


def _n_in_frame(coordinates: Tensor) -> Tensor:
    """(..., L, 3) Å: N in the residue's frame."""
    rotation, origin = residue_frames(coordinates)
    return to_local(coordinates[..., N, None, :], rotation, origin)[..., 0, :]


def _at_cb(n: Tensor, cb: Tensor) -> tuple[Tensor, Tensor]:
    """Frames at Cβ, in the residue's frame, whose origin is CA."""
    return residue_frames(torch.stack([n, cb, torch.zeros_like(cb)], dim=-2))


def placed(local: Tensor, coordinates: Tensor, mask: Tensor) -> Tensor:
    """(..., L, S, 3) Å: atoms in residue frames to where they stand.

    Args:
        local: (..., L, S, 3) Å.
        coordinates: (..., L, 3, 3) Å.
        mask: (..., L) bool, residue present.
    """
    return to_global(local, *residue_frames(coordinates, mask))


def terminal_oxygen(coordinates: Tensor, oxygen: Tensor) -> Tensor:
    """OXT of residues that end a chain, (..., L, 3) Å, opposite to O in the plane of the carboxyl.

    C-OXT 1.249 Å, CA-C-OXT 117.0°.

    Args:
        coordinates: (..., L, 3, 3) Å.
        oxygen: (..., L, 3) Å, their O.
    """
    atoms = torch.stack([oxygen, coordinates[..., C, :], coordinates[..., CA, :]], dim=-2)
    angle = constants.CA_C_OXT
    local = coordinates.new_tensor([[math.cos(angle), -math.sin(angle), 0.0]])
    return to_global(constants.C_OXT * local, *residue_frames(atoms))[..., 0, :]


def chi1(coordinates: Tensor, local: Tensor, mask: Tensor) -> Tensor:
    """(..., L) radians, torsion N-CA-CB-XG; 0 where ``mask`` (..., L) is False.

    Args:
        coordinates: (..., L, 3, 3) Å.
        local: (..., L, S, 3) Å, in residue frames; XG is slot 1: CG, CG1, SG, OG or OG1.
        mask: (..., L) bool, with Cβ and the atom behind it.
    """
    n = _n_in_frame(coordinates)
    return dihedral(n, torch.zeros_like(n), local[..., 0, :], local[..., 1, :], mask)


def has_chi1(aatype: Tensor) -> Tensor:
    """(L,) bool: residues with an atom behind Cβ."""
    return torch.tensor([len(SIDE_CHAINS[letter]) > 1 for letter in ALPHABET + "X"])[aatype]
