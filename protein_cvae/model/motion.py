"""How a conformer has moved from a template: per residue a shift and a turn.

Both are seen in the frames of the template, so they do not depend on any pose; a mirror image has
others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.align import align

_SUPERPOSITION_ROUNDS = 3
# Residues along the chain whose shifts the prior of turn and detail sees.
SEEN = (-3, -2, -1, 1, 2, 3)


def displacement(
    rotation: Tensor, origin: Tensor, to_rotation: Tensor, to_origin: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """How each residue has moved and turned from a template, seen in the template's frames.

    The conformer is superposed on the template by CA, with weights 1 / (1 + d²) renewed a few
    times, so that a moving tail or domain does not drag the rest along.

    Args:
        rotation, origin: (B, L, 3, 3), (B, L, 3) Å frames of the conformer.
        to_rotation, to_origin: those of the template.
        mask: (B, L) bool, present in both.

    Returns:
        shift (B, L, 3) Å and turn (B, L, 3), axis-angle in radians; 0 where not present.
    """
    present = mask.to(origin)
    # An item without any residue in common still needs a superposition that is finite.
    weight = torch.where(mask.any(1, keepdim=True), present, torch.ones_like(present))
    here = origin * present[..., None]
    there = to_origin * present[..., None]
    base = weight
    for _ in range(_SUPERPOSITION_ROUNDS):
        with torch.no_grad():
            moved = align(here, there, weight).apply(here)
            weight = base / (1 + (moved - there).square().sum(-1))
    fit = align(here, there, weight)
    gap = (fit.apply(here) - there) * present[..., None]
    shift = (gap[..., None, :] @ to_rotation)[..., 0, :]
    turn = axis_angle(to_rotation.mT @ fit.rotation[:, None] @ rotation)
    return shift, torch.where(mask[..., None], turn, torch.zeros_like(turn))


def neighbor_shifts(rotation: Tensor, shift: Tensor, mask: Tensor) -> list[Tensor]:
    """How the residues of :data:`SEEN` along the chain have shifted beside each residue.

    Args:
        rotation: (B, L, 3, 3) frames of the template.
        shift: (B, L, 3) Å, in the frame of each residue.
        mask: (B, L) bool, present.

    Returns:
        For each of :data:`SEEN` (B, L, 3) Å, in the frame of the residue itself; 0 where either is
        absent.
    """
    moved = (rotation @ shift[..., None])[..., 0]  # (B, L, 3), one system for all
    length = shift.shape[1]
    place = torch.arange(length, device=shift.device)
    around = []
    for step in SEEN:
        other = (place + step).clamp(0, length - 1)
        there = mask[:, other] & (place == other - step) & mask
        gap = torch.where(there[..., None], moved[:, other] - moved, torch.zeros_like(moved))
        around.append((gap[..., None, :] @ rotation)[..., 0, :])
    return around


@torch.no_grad()
def axis_angle(rotation: Tensor) -> Tensor:
    """Inverse of ``rotation_from_axis_angle``: (..., 3, 3) -> (..., 3), angle in [0, π].

    Through the unit quaternion, whose largest component is computed first (Shepperd 1978), so that
    no angle loses digits.  Without gradient: conformers are data.
    """
    m = rotation
    trace = m.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
    # Four times the square of (w, x, y, z).
    square = torch.cat([1 + trace, 1 + 2 * m.diagonal(dim1=-2, dim2=-1) - trace], dim=-1)
    largest = square.argmax(-1, keepdim=True)
    w, x, y, z = square.unbind(-1)
    xy, xz, yz = (m[..., i, j] + m[..., j, i] for i, j in ((0, 1), (0, 2), (1, 2)))
    wx, wy, wz = (m[..., i, j] - m[..., j, i] for i, j in ((2, 1), (0, 2), (1, 0)))
    # Row p holds 4 q_p q: the chosen one over 2 |q_p| is the quaternion times 2.
    rows = torch.stack(
        [
            torch.stack([w, wx, wy, wz], -1),
            torch.stack([wx, x, xy, xz], -1),
            torch.stack([wy, xy, y, yz], -1),
            torch.stack([wz, xz, yz, z], -1),
        ],
        dim=-2,
    )
    row = rows.gather(-2, largest[..., None].expand(*largest.shape[:-1], 1, 4))[..., 0, :]
    quaternion = row / row.norm(dim=-1, keepdim=True).clamp_min(1e-30)
    quaternion = quaternion * torch.where(quaternion[..., :1] < 0, -1.0, 1.0)
    vector = quaternion[..., 1:]
    sine = vector.norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(sine, quaternion[..., :1])
    return torch.where(sine > 1e-12, angle / sine.clamp_min(1e-30), 2.0) * vector
