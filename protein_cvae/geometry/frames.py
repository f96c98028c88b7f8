"""Rigid residue frames: from atoms, to atoms, and the rotations that update them.

Frame of a residue: origin CA, axes by Gram-Schmidt

    e₁ = unit(C − CA),  e₂ = unit((N − CA) − ((N − CA)·e₁) e₁),  e₃ = e₁ × e₂

as the COLUMNS of ``rotation``, so that  global = rotation · local + origin.  It turns with the
structure (R → Q R), is right-handed, and a mirrored structure gives other local coordinates.

Rotations: axis-angle by Rodrigues' formula R = 1 + (sin θ / θ) K + ((1 − cos θ) / θ²) K²; unit
quaternions (w, x, y, z); six numbers by Gram-Schmidt (Zhou et al. 2019, arXiv:1812.07035).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from protein_cvae.geometry import constants
from protein_cvae.geometry.constants import CA, C, N
from protein_cvae.geometry.dihedrals import peptide_mask

# Below this square of the angle the Taylor series is more exact than the quotient.
_SMALL_SQUARE = 1e-2
_PARALLEL_SINE = 1e-4

# Torsion N-CA-C-O of a residue without follower: that of a β strand (ψ = 135°).
_TERMINAL_OXYGEN = math.radians(135.0 - 180.0)


def residue_frames(coordinates: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Frames of residues.

    Args:
        coordinates: (..., L, 3, 3), Å: residue, atom (N, CA, C), xyz.
        mask: (..., L) bool, residue present; others may hold anything, NaN included.

    Returns:
        ``(rotation, origin)``: (..., L, 3, 3) and (..., L, 3), Å.  A masked residue has the
        identity and origin 0; a degenerate one (N, CA, C on a line) the identity at its CA.  Both
        have zero gradient through the rotation.
    """
    n, ca, c = (coordinates[..., atom, :] for atom in (N, CA, C))
    if mask is not None:
        ca = torch.where(mask[..., None], ca, torch.zeros_like(ca))
        n = torch.where(mask[..., None], n, torch.zeros_like(n))
        c = torch.where(mask[..., None], c, torch.zeros_like(c))
    return _gram_schmidt(c - ca, n - ca), ca


def to_local(points: Tensor, rotation: Tensor, origin: Tensor) -> Tensor:
    """Rᵀ (x − origin): points (..., P, 3) in frames (..., 3, 3), (..., 3) -> (..., P, 3)."""
    return (points - origin[..., None, :]) @ rotation


def to_global(points: Tensor, rotation: Tensor, origin: Tensor) -> Tensor:
    """R x + origin: local points (..., P, 3) of frames (..., 3, 3), (..., 3) -> (..., P, 3)."""
    return points @ rotation.mT + origin[..., None, :]


def atoms_from_frames(rotation: Tensor, origin: Tensor) -> Tensor:
    """N, CA, C of ideal residues: (..., L, 3, 3), (..., L, 3) -> (..., L, 3, 3), Å.

    N-CA 1.458 Å, CA-C 1.525 Å, N-CA-C 110.8°; inverse of :func:`residue_frames`.
    """
    return to_global(ideal_residue(rotation), rotation, origin)


def ideal_residue(like: Tensor) -> Tensor:
    """(3, 3) local N, CA, C of an ideal residue, in the type and on the device of ``like``."""
    angle = constants.N_CA_C.ideal
    return like.new_tensor(
        [
            [constants.N_CA.ideal * math.cos(angle), constants.N_CA.ideal * math.sin(angle), 0.0],
            [0.0, 0.0, 0.0],
            [constants.CA_C.ideal, 0.0, 0.0],
        ]
    )


def rotation_from_axis_angle(vector: Tensor) -> Tensor:
    """exp([v]×): (..., 3), radians along the axis -> (..., 3, 3); smooth at 0."""
    square = vector.square().sum(-1)  # (...)
    small = square < _SMALL_SQUARE
    series = torch.where(small, square, torch.zeros_like(square))
    safe = torch.where(small, torch.ones_like(square), square)
    angle = safe.sqrt()
    first = 1 - series / 6 * (1 - series / 20 * (1 - series / 42 * (1 - series / 72)))
    second = 0.5 - series / 24 * (1 - series / 30 * (1 - series / 56 * (1 - series / 90)))
    first = torch.where(small, first, angle.sin() / angle)
    second = torch.where(small, second, 2 * (0.5 * angle).sin().square() / safe)
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    turn = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1)
    turn = turn.unflatten(-1, (3, 3))
    one = torch.eye(3, dtype=vector.dtype, device=vector.device)
    return one + first[..., None, None] * turn + second[..., None, None] * (turn @ turn)


def rotation_from_6d(numbers: Tensor) -> Tensor:
    """(..., 6) = two vectors -> (..., 3, 3) by Gram-Schmidt; parallel vectors give the identity."""
    return _gram_schmidt(numbers[..., :3], numbers[..., 3:])


def virtual_cb(coordinates: Tensor, mask: Tensor | None = None) -> Tensor:
    """Cβ of L residues, (..., L, 3, 3) -> (..., L, 3), Å; glycine gets one, too.

    CA-CB 1.530 Å, N-CA-CB 110.4°, C-CA-CB 110.1°, exact for an ideal residue; on the side −e₃.
    """
    tau = constants.N_CA_C.ideal
    x = math.cos(constants.C_CA_CB)
    y = (math.cos(constants.N_CA_CB) - math.cos(tau) * x) / math.sin(tau)
    z = -math.sqrt(1 - x * x - y * y)
    rotation, origin = residue_frames(coordinates, mask)
    local = constants.CA_CB * rotation.new_tensor([[x, y, z]])
    return to_global(local, rotation, origin)[..., 0, :]


def carbonyl_oxygen(coordinates: Tensor, bonded: Tensor, mask: Tensor) -> Tensor:
    """Carbonyl O, (..., L, 3, 3) -> (..., L, 3), Å; 0 where the residue is missing.

    C-O 1.231 Å, CA-C-O 120.8°, in the plane of CA, C and the next N and opposite to that N.  A
    residue without follower has N-CA-C-O −45° (ψ of a β strand).

    Args:
        coordinates: (..., L, 3, 3), Å.
        bonded: (..., L) bool, residue i is bonded to i + 1.
        mask: (..., L) bool, residue present.
    """
    link = peptide_mask(bonded, mask)[..., None]
    n, ca, c = (coordinates[..., atom, :] for atom in (N, CA, C))
    zero = torch.zeros_like(ca)
    n, ca, c = (torch.where(mask[..., None], atom, zero) for atom in (n, ca, c))
    follower = torch.cat([n[..., 1:, :], n[..., -1:, :]], dim=-2)
    rotation = _gram_schmidt(ca - c, torch.where(link, follower - c, n - ca))
    # Seen in the frame at C (x towards CA, y towards the follower or, at an end, towards N).
    bond, angle = constants.C_O, constants.CA_C_O
    across = [bond * math.cos(angle), -bond * math.sin(angle), 0.0]
    height = bond * math.sin(angle)
    ending = [
        bond * math.cos(angle),
        height * math.cos(_TERMINAL_OXYGEN),
        -height * math.sin(_TERMINAL_OXYGEN),
    ]
    local = torch.where(link, rotation.new_tensor(across), rotation.new_tensor(ending))
    oxygen = (rotation @ local[..., None])[..., 0] + c
    return torch.where(mask[..., None], oxygen, zero)


def _gram_schmidt(first: Tensor, second: Tensor) -> Tensor:
    """(..., 3), (..., 3) -> right-handed rotation (..., 3, 3), columns e₁, e₂, e₃."""
    with torch.no_grad():
        area = torch.linalg.cross(first, second).square().sum(-1, keepdim=True)
        sides = first.square().sum(-1, keepdim=True) * second.square().sum(-1, keepdim=True)
        plane = area > _PARALLEL_SINE**2 * sides
    first = torch.where(plane, first, first.new_tensor([1.0, 0.0, 0.0]))
    second = torch.where(plane, second, second.new_tensor([0.0, 1.0, 0.0]))
    e1 = first / torch.linalg.vector_norm(first, dim=-1, keepdim=True)
    second = second - (second * e1).sum(-1, keepdim=True) * e1
    e2 = second / torch.linalg.vector_norm(second, dim=-1, keepdim=True)
    return torch.stack([e1, e2, torch.linalg.cross(e1, e2)], dim=-1)
