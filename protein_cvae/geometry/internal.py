"""Bond lengths and bond angles of a backbone.

Lengths |b − a| in Å, angles atan2(|u × v|, u · v) in [0, π].  Those of the peptide bond between
residues i and i + 1 are stored at i.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from protein_cvae.geometry.constants import CA, C, N
from protein_cvae.geometry.dihedrals import check_backbone, peptide_mask

_PARALLEL_SINE = 1e-4


class BondGeometry(NamedTuple):
    """Three lengths (Å) and three angles (radians), each (..., L); or masks of them, bool."""

    n_ca: Tensor
    ca_c: Tensor
    c_n: Tensor
    n_ca_c: Tensor
    ca_c_n: Tensor
    c_n_ca: Tensor


def distance(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """|b − a|: (..., 3), (..., 3) -> (...), Å; 0 with zero gradient where masked or coincident."""
    gap = b - a
    usable = (gap.detach() != 0).any(-1)
    if mask is not None:
        usable = usable & mask
    spare = gap.new_tensor([1.0, 0.0, 0.0])
    length = torch.linalg.vector_norm(torch.where(usable[..., None], gap, spare), dim=-1)
    return torch.where(usable, length, torch.zeros_like(length))


def angle(a: Tensor, b: Tensor, c: Tensor, mask: Tensor | None = None) -> Tensor:
    """Angle a-b-c: three (..., 3) -> (...), radians.

    0 with zero gradient where masked; 0 or π with zero gradient where the three are on a line, for
    there the angle has a kink.
    """
    u, v = a - b, c - b
    with torch.no_grad():
        area = torch.linalg.cross(u, v).square().sum(-1)
        bent = area > _PARALLEL_SINE**2 * u.square().sum(-1) * v.square().sum(-1)
        straight = ~bent & ((u * v).sum(-1) < 0)
        if mask is not None:
            bent, straight = bent & mask, straight & mask
    u = torch.where(bent[..., None], u, u.new_tensor([1.0, 0.0, 0.0]))
    v = torch.where(bent[..., None], v, v.new_tensor([0.0, 1.0, 0.0]))
    sine = torch.linalg.vector_norm(torch.linalg.cross(u, v), dim=-1)
    value = torch.atan2(sine, (u * v).sum(-1))
    return torch.where(bent, value, torch.pi * straight.to(value))


def bond_geometry(
    coordinates: Tensor, bonded: Tensor, mask: Tensor
) -> tuple[BondGeometry, BondGeometry]:
    """All bonds and angles of a backbone and where each is defined.

    Args:
        coordinates: (..., L, 3, 3), Å: residue, atom (N, CA, C), xyz.
        bonded: (..., L) bool, residue i is bonded to i + 1.
        mask: (..., L) bool, residue present.

    Returns:
        ``(values, defined)``; values are 0 where not defined.

    Raises:
        ValueError: where the shapes do not fit.
    """
    check_backbone(coordinates, bonded, mask)
    link = peptide_mask(bonded, mask)
    n, ca, c = (coordinates[..., atom, :] for atom in (N, CA, C))
    n_next, ca_next = (torch.cat([x[..., 1:, :], x[..., -1:, :]], dim=-2) for x in (n, ca))
    values = BondGeometry(
        n_ca=distance(n, ca, mask),
        ca_c=distance(ca, c, mask),
        c_n=distance(c, n_next, link),
        n_ca_c=angle(n, ca, c, mask),
        ca_c_n=angle(ca, c, n_next, link),
        c_n_ca=angle(c, n_next, ca_next, link),
    )
    return values, BondGeometry(mask, mask, link, mask, link, link)
