"""Backbone from torsions: NeRF in log₂ L steps by a parallel scan of rigid transforms.

The frame of residue i has its axes as in ``frames`` (x along CA → C, N in the plane y > 0) and its
origin at C.  An atom at distance r, angle θ and torsion χ of the three before it lies at r d in the
frame of the last of them, and its own frame is turned by

    [ −cos θ         −sin θ         0     ]
    [ sin θ cos χ    −cos θ cos χ   −sin χ ]        first column d
    [ sin θ sin χ    −cos θ sin χ   cos χ  ]

(natural extension reference frame: Parsons et al. 2005, J. Comput. Chem. 26, 1063-1068).  Three of
them, for N (ψ of the residue before), CA (ω) and C (φ), lead from residue i to i + 1.  Rigid
transforms compose associatively, so all prefixes follow in ⌈log₂ L⌉ doubling steps (Hillis and
Steele 1986, Commun. ACM 29, 1170-1183); a flag at each chain start cuts the prefix there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.errors import UserError
from protein_cvae.geometry import constants
from protein_cvae.geometry.dihedrals import Torsions, peptide_mask
from protein_cvae.geometry.internal import BondGeometry


def build_backbone(
    torsions: Torsions,
    bonded: Tensor,
    mask: Tensor | None = None,
    *,
    bonds: BondGeometry | None = None,
    start: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Coordinates of chains with the given torsions; inverse of ``backbone_dihedrals``.

    Args:
        torsions: φ, ψ, ω, each (..., L) radians; ω(i) is the peptide bond after residue i.  Values
            that have no meaning (φ at a chain start, ψ and ω at an end) may be anything.
        bonded: (..., L) bool, residue i is bonded to i + 1; a new chain starts after a False.
        mask: (..., L) bool, residue present; None for all.
        bonds: lengths (Å) and angles (radians), each (..., L); None for the ideal ones.  Where they
            have no meaning they may be anything.
        start: frames (rotation (..., L, 3, 3), origin (..., L, 3), Å) as ``residue_frames`` gives;
            only those at chain starts are used.  None puts every start at the identity with CA at
            the origin, so that chains overlap.

    Returns:
        (..., L, 3, 3), Å; 0 where masked.

    Raises:
        ValueError: where the shapes do not fit.
    """
    phi, psi, omega = torsions
    shape = phi.shape
    mask = torch.ones(shape, dtype=torch.bool, device=phi.device) if mask is None else mask
    wrong = {
        name: tuple(value.shape)
        for name, value in {"psi": psi, "omega": omega, "bonded": bonded, "mask": mask}.items()
        if value.shape != shape
    }
    if wrong or phi.dim() == 0:
        raise UserError(f"all inputs must have the shape (..., L) of phi {tuple(shape)}: {wrong}")
    link = peptide_mask(bonded, mask)  # i to i + 1
    linked = torch.cat([torch.zeros_like(link[..., :1]), link[..., :-1]], dim=-1)  # i − 1 to i
    ideal = bonds or ideal_bonds(phi)

    def before(value: Tensor, spare: float) -> Tensor:
        """The value of residue i − 1; meaningless entries (NaN, too) become ``spare``."""
        shifted = torch.cat([value[..., :1], value[..., :-1]], dim=-1)
        return torch.where(linked, shifted, torch.full_like(shifted, spare))

    def here(value: Tensor, spare: float) -> Tensor:
        return torch.where(mask, value, torch.full_like(value, spare))

    n_ca = here(ideal.n_ca, constants.N_CA.ideal)
    ca_c = here(ideal.ca_c, constants.CA_C.ideal)
    tau = here(ideal.n_ca_c, constants.N_CA_C.ideal)
    phi = torch.where(linked, phi, torch.zeros_like(phi))
    steps = [
        _step(
            before(ideal.c_n, constants.C_N.ideal),
            before(ideal.ca_c_n, constants.CA_C_N.ideal),
            before(psi, 0.0),
        ),
        _step(n_ca, before(ideal.c_n_ca, constants.C_N_CA.ideal), before(omega, 0.0)),
        _step(ca_c, tau, phi),
    ]
    rotation, origin = _compose(_compose(steps[0], steps[1]), steps[2])
    if start is None:
        first = torch.eye(3, dtype=phi.dtype, device=phi.device).expand_as(rotation)
        first_ca = torch.zeros_like(origin)
    else:
        first, first_ca = (_present(value, mask) for value in start)
    first_c = first_ca + ca_c[..., None] * first[..., 0]
    rotation = torch.where(linked[..., None, None], rotation, first)
    origin = torch.where(linked[..., None], origin, first_c)
    rotation, origin = _segmented_prefix(rotation, origin, ~linked)

    ca = origin - ca_c[..., None] * rotation[..., 0]
    arm = tau.cos()[..., None] * rotation[..., 0] + tau.sin()[..., None] * rotation[..., 1]
    atoms = torch.stack([ca + n_ca[..., None] * arm, ca, origin], dim=-2)
    return torch.where(mask[..., None, None], atoms, torch.zeros_like(atoms))


def ideal_bonds(like: Tensor) -> BondGeometry:
    """Engh-Huber lengths and angles in the shape (..., L), type and device of ``like``."""
    restraints = (
        constants.N_CA,
        constants.CA_C,
        constants.C_N,
        constants.N_CA_C,
        constants.CA_C_N,
        constants.C_N_CA,
    )
    return BondGeometry(*(torch.full_like(like, restraint.ideal) for restraint in restraints))


Rigid = tuple[Tensor, Tensor]  # rotation (..., 3, 3), translation (..., 3)


def _step(length: Tensor, theta: Tensor, chi: Tensor) -> Rigid:
    """From the frame of one atom to that of the next, (...) each."""
    sin_theta, cos_theta, sin_chi, cos_chi = theta.sin(), theta.cos(), chi.sin(), chi.cos()
    rows = [
        -cos_theta,
        -sin_theta,
        torch.zeros_like(chi),
        sin_theta * cos_chi,
        -cos_theta * cos_chi,
        -sin_chi,
        sin_theta * sin_chi,
        -cos_theta * sin_chi,
        cos_chi,
    ]
    rotation = torch.stack(rows, dim=-1).unflatten(-1, (3, 3))
    return rotation, length[..., None] * rotation[..., 0]


def _compose(first: Rigid, second: Rigid) -> Rigid:
    """First ∘ second: the second is given in the frame of the first."""
    rotation, translation = first
    moved = (rotation @ second[1][..., None])[..., 0] + translation
    return rotation @ second[0], moved


def _segmented_prefix(rotation: Tensor, translation: Tensor, starts: Tensor) -> Rigid:
    """Products T(s) ∘ ... ∘ T(i) from the last start s ≤ i, for all i; (..., L) on each."""
    length = starts.shape[-1]
    shift = 1
    while shift < length:
        earlier = rotation[..., :-shift, :, :], translation[..., :-shift, :]
        later = rotation[..., shift:, :, :], translation[..., shift:, :]
        joined = _compose(earlier, later)
        cut = starts[..., shift:]
        rotation = torch.cat(
            [
                rotation[..., :shift, :, :],
                torch.where(cut[..., None, None], later[0], joined[0]),
            ],
            dim=-3,
        )
        translation = torch.cat(
            [translation[..., :shift, :], torch.where(cut[..., None], later[1], joined[1])], dim=-2
        )
        starts = torch.cat([starts[..., :shift], cut | starts[..., :-shift]], dim=-1)
        shift *= 2
    return rotation, translation


def _present(value: Tensor, mask: Tensor) -> Tensor:
    """``value`` with zeros where a residue is missing, whatever it holds there."""
    shape = mask.shape + (1,) * (value.dim() - mask.dim())
    return torch.where(mask.view(shape), value, torch.zeros_like(value))
