"""Is a conformer a possible protein: covalent geometry, torsions, clashes, handedness.

Per conformer and residue, and as one row of numbers (:meth:`Validity.summary`):

* bonds and angles as z = (value − ideal) / sd of Engh and Huber (1991); those of the peptide bond
  between i and i + 1 are stored at i.  ω as its deviation from the nearer planar state, so that cis
  counts as ideal; z by the same sd for both.  A residue is *inside* where all that are defined of
  its seven have |z| ≤ 4.
* peptide breaks: C–N above 1.4 Å; severed chains: C–N above 2.0 Å.
* torn chains (:mod:`protein_cvae.geometry.torn`).
* Ramachandran favoured and outlier by class, the Top8000 definition
  (:mod:`protein_cvae.geometry.ramachandran`).
* clashes: pairs of CA nearer than 3.0 Å that are not neighbours in the chain.  The nearest such
  pair in 60 real NMR ensembles is 3.19 Å apart; trans neighbours are at 3.8, cis at 2.9 Å.
* CA chirality from given Cβ: (N − CA) · ((C − CA) × (Cβ − CA)) > 0 for L.  N, CA and C alone do not
  show it; then the share of residues with φ > 0 that are not glycine does, beside the real one.
* helix handedness: torsions of CA(i) … CA(i+3) with 30°–75° of either sign and ends less than 6.5 Å
  apart, in runs of at least three of one sign; α helices have +50°, their mirror images −50°.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import UserError
from protein_cvae.geometry import constants
from protein_cvae.geometry.constants import CA, C, N
from protein_cvae.geometry.dihedrals import backbone_dihedrals, dihedral
from protein_cvae.geometry.internal import bond_geometry
from protein_cvae.geometry.ramachandran import (
    ramachandran_class,
    ramachandran_favoured,
    ramachandran_outlier,
)
from protein_cvae.geometry.torn import torn_chains
from protein_cvae.residues import ALPHABET

BREAK_LENGTH = 1.4  # Å, C-N
SEVERED_LENGTH = 2.0  # Å, C-N
CLASH_DISTANCE = 3.0  # Å, CA-CA

_BONDS = (constants.N_CA, constants.CA_C, constants.C_N)
_ANGLES = (constants.N_CA_C, constants.CA_C_N, constants.C_N_CA)
_HELIX_TURN = (math.radians(30.0), math.radians(75.0))
_HELIX_REACH = 6.5  # Å, CA(i) to CA(i+3)
_HELIX_RUN = 3
_GLY = ALPHABET.index("G")


@dataclass(frozen=True, eq=False)
class Validity:
    """What :func:`validity` found; M conformers of L residues.

    Attributes:
        present: (M, L) bool, residue present.
        linked: (M, L) bool, residue i has a peptide bond to i + 1.
        bond_z: (M, L, 3) N–CA, CA–C, C–N; ``bond_error`` the same in Å; 0 where undefined.
        angle_z: (M, L, 3) N–CA–C, CA–C–N, C–N–CA; ``angle_error`` the same in radians.
        omega_deviation: (M, L) radians from the nearer of 0 and π, not negative; 0 if undefined.
        inside: (M, L) bool, everything defined at this residue is inside 4 sd; False if absent.
        broken, severed: (M, L) bool, C–N above 1.4 and 2.0 Å.
        torn: (M, L) bool, the chain cannot go on from i to i + 1; False where the chains of
            residues are not given.
        cis: (M, L) bool, the peptide bond from i to i + 1 is cis.
        has_torsions: (M, L) bool, φ and ψ are both defined.
        residue_class: (M, L) int64, see ``ramachandran_class``.
        favoured, outlier: (M, L) bool; False where torsions are undefined.
        positive_phi: (M, L) bool, φ > 0 and not glycine; ``has_phi`` where that can be told.
        clashes: (M,) int64, number of clashing pairs.
        right_helix, left_helix: (M,) int64, windows of four CA within helices of either hand.
        chirality: (M, L) int64, +1 L, −1 D, 0 without Cβ.
    """

    present: Tensor
    linked: Tensor
    bond_z: Tensor
    bond_error: Tensor
    angle_z: Tensor
    angle_error: Tensor
    omega_deviation: Tensor
    inside: Tensor
    broken: Tensor
    severed: Tensor
    torn: Tensor
    cis: Tensor
    has_torsions: Tensor
    residue_class: Tensor
    favoured: Tensor
    outlier: Tensor
    positive_phi: Tensor
    has_phi: Tensor
    clashes: Tensor
    right_helix: Tensor
    left_helix: Tensor
    chirality: Tensor

    @property
    def valid(self) -> Tensor:
        """(M,) bool, every bond inside 4 sd, no peptide break and no torn chain."""
        bonds = (self.bond_z.abs() <= constants.TOLERANCE).all(-1).all(-1)
        return bonds & ~self.broken.any(-1) & ~self.torn.any(-1)

    def summary(self) -> dict[str, float]:
        """One row of means: over residues, links or conformers as named; NaN where none is.

        ``bond_rms`` in Å and ``angle_rms``, ``omega_rms`` in degrees are deviations from ideal;
        ``clash`` and ``torn`` are shares of conformers with any, ``valid`` that of :attr:`valid`.
        """
        link, present = self.linked, self.present
        defined = torch.stack((present, present, link), -1)
        angle_defined = torch.stack((present, link, link), -1)
        both_hands = self.right_helix.sum() + self.left_helix.sum()
        chiral = self.chirality != 0
        return {
            "bond_rms": _share(self.bond_error.square(), defined) ** 0.5,
            "angle_rms": math.degrees(_share(self.angle_error.square(), angle_defined) ** 0.5),
            "omega_rms": math.degrees(_share(self.omega_deviation.square(), link) ** 0.5),
            "bond_z_rms": _share(self.bond_z.square(), defined) ** 0.5,
            "angle_z_rms": _share(self.angle_z.square(), angle_defined) ** 0.5,
            "inside": _share(self.inside, present),
            "broken": _share(self.broken, link),
            "severed": _share(self.severed, link),
            "torn": float(self.torn.any(-1).double().mean()),
            "cis": _share(self.cis, link),
            "favoured": _share(self.favoured, self.has_torsions),
            "outlier": _share(self.outlier, self.has_torsions),
            "positive_phi": _share(self.positive_phi, self.has_phi),
            "clash": float((self.clashes > 0).double().mean()),
            "right_handed_helix": (
                float(self.right_helix.sum() / both_hands) if both_hands > 0 else math.nan
            ),
            "left_chirality": _share(self.chirality > 0, chiral),
            "valid": float(self.valid.double().mean()),
        }


def validity(
    coordinates: Tensor,
    mask: Tensor,
    bonded: Tensor,
    aatype: Tensor,
    cb: Tensor | None = None,
    cb_mask: Tensor | None = None,
    chain: Tensor | None = None,
    number: Tensor | None = None,
) -> Validity:
    """Check M conformers; no gradient.

    Args:
        coordinates: (M, L, 3, 3) Å, residue, atom (N, CA, C), xyz.
        mask: (M, L) or (L,) bool, residue present; others may hold anything.
        bonded: (M, L) or (L,) bool, residue i *should be* bonded to i + 1.
        aatype: (M, L) or (L,) int64, index in ``residues.ALPHABET``.
        cb: (M, L, 3) Å, Cβ where there is one (not :func:`frames.virtual_cb`, which is L always).
        cb_mask: (M, L) or (L,) bool, where ``cb`` holds an atom; everywhere but at glycine if
            omitted.
        chain, number: (L,) int64, chain and number of each residue, to see torn chains; without
            numbers no residue is left out between two that follow each other.

    Raises:
        ValueError: where a shape does not fit, or a present residue is not finite.
    """
    if coordinates.dim() != 4:
        raise UserError(
            f"coordinates must be (M, L, 3, 3), got {tuple(coordinates.shape)}; give one conformer "
            "a first axis of 1"
        )
    shape = tuple(coordinates.shape[:2])
    mask, bonded, aatype = (
        _expanded(name, value, shape)
        for name, value in (("mask", mask), ("bonded", bonded), ("aatype", aatype))
    )
    with torch.no_grad():
        spare = torch.zeros((), dtype=coordinates.dtype, device=coordinates.device)
        x = torch.where(mask[..., None, None], coordinates, spare)
        if not bool(x.isfinite().all()):
            raise UserError("coordinates of present residues hold NaN or infinity")
        torn = torn_chains(x[..., CA, :], mask, bonded, chain, number)
        return _validity(x, mask, bonded, aatype, torn, *_cb(x, mask, aatype, cb, cb_mask))


def _validity(
    x: Tensor,
    mask: Tensor,
    bonded: Tensor,
    aatype: Tensor,
    torn: Tensor,
    cb: Tensor | None,
    has_cb: Tensor,
) -> Validity:
    values, defined = bond_geometry(x, bonded, mask)
    bond_error, bond_z = _deviations(values[:3], defined[:3], _BONDS)
    angle_error, angle_z = _deviations(values[3:], defined[3:], _ANGLES)
    torsions, torsion_defined = backbone_dihedrals(x, bonded, mask)
    link = torsion_defined.omega
    cis = (torch.cos(torsions.omega) > 0) & link
    turned = torsions.omega.abs()
    omega_deviation = torch.minimum(turned, math.pi - turned).masked_fill(~link, 0.0)
    omega_sd = torch.where(cis, constants.OMEGA_CIS.deviation, constants.OMEGA_TRANS.deviation)
    z = torch.cat((bond_z, angle_z, (omega_deviation / omega_sd.to(x))[..., None]), -1)

    has_torsions = torsion_defined.phi & torsion_defined.psi
    residue_class = ramachandran_class(aatype, torsions.omega, link)
    clash = _far_ca_distances(x[..., CA, :], mask, bonded) < CLASH_DISTANCE
    right, left = _helix_windows(x[..., CA, :], link)
    chirality = torch.zeros_like(aatype)
    if cb is not None:
        n, ca, c = (x[..., atom, :] for atom in (N, CA, C))
        volume = ((n - ca) * torch.linalg.cross(c - ca, cb - ca)).sum(-1)
        chirality = torch.where(has_cb, volume.sign().to(aatype.dtype), chirality)
    has_phi = torsion_defined.phi & (aatype != _GLY)
    return Validity(
        present=mask,
        linked=link,
        bond_z=bond_z,
        bond_error=bond_error,
        angle_z=angle_z,
        angle_error=angle_error,
        omega_deviation=omega_deviation,
        inside=(z.abs() <= constants.TOLERANCE).all(-1) & mask & ~torn,
        broken=(values.c_n > BREAK_LENGTH) & link,
        severed=(values.c_n > SEVERED_LENGTH) & link,
        torn=torn,
        cis=cis,
        has_torsions=has_torsions,
        residue_class=residue_class,
        favoured=ramachandran_favoured(torsions.phi, torsions.psi, residue_class) & has_torsions,
        outlier=ramachandran_outlier(torsions.phi, torsions.psi, residue_class) & has_torsions,
        positive_phi=(torsions.phi > 0) & has_phi,
        has_phi=has_phi,
        clashes=clash.sum((-2, -1)) // 2,
        right_helix=right,
        left_helix=left,
        chirality=chirality,
    )


def _deviations(
    values: tuple[Tensor, ...],
    defined: tuple[Tensor, ...],
    restraints: tuple[constants.Restraint, ...],
) -> tuple[Tensor, Tensor]:
    """(M, L, 3) value − ideal and the same in sd, 0 where not defined."""
    errors, scores = [], []
    for value, known, restraint in zip(values, defined, restraints, strict=True):
        error = (value - restraint.ideal).masked_fill(~known, 0.0)
        errors.append(error)
        scores.append(error / restraint.deviation)
    return torch.stack(errors, -1), torch.stack(scores, -1)


def _far_ca_distances(ca: Tensor, mask: Tensor, bonded: Tensor) -> Tensor:
    """(M, L, L) Å; infinite for absent residues, a residue with itself and bonded neighbours."""
    length = ca.shape[-2]
    index = torch.arange(length, device=ca.device)
    apart = (index[:, None] - index).abs()
    # bonded[i] joins i and i + 1: look it up at the lower of the two
    lower = torch.minimum(index[:, None], index)
    neighbours = (apart == 1) & bonded[..., lower]  # (M, L, L)
    skip = (apart == 0) | neighbours | ~mask[..., :, None] | ~mask[..., None, :]
    # Exact differences: the matrix-product form of cdist loses digits far from the origin.
    distances = torch.cdist(ca, ca, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.masked_fill(skip, math.inf)


def _helix_windows(ca: Tensor, link: Tensor) -> tuple[Tensor, Tensor]:
    """(M,), (M,) int64: windows of four CA in right- and left-handed helical runs."""
    if ca.shape[-2] < 3 + _HELIX_RUN:
        none = torch.zeros(ca.shape[0], dtype=torch.int64, device=ca.device)
        return none, none
    whole = link[..., :-3] & link[..., 1:-2] & link[..., 2:-1]  # (M, L - 3)
    turn = dihedral(ca[..., :-3, :], ca[..., 1:-2, :], ca[..., 2:-1, :], ca[..., 3:, :], whole)
    reach = torch.linalg.vector_norm(ca[..., 3:, :] - ca[..., :-3, :], dim=-1)
    low, high = _HELIX_TURN
    helical = whole & (turn.abs() > low) & (turn.abs() < high) & (reach < _HELIX_REACH)
    return _in_runs(helical & (turn > 0)), _in_runs(helical & (turn < 0))


def _in_runs(windows: Tensor) -> Tensor:
    """(M, W) bool -> (M,) number of True entries in runs of at least ``_HELIX_RUN``."""
    starts = windows.unfold(-1, _HELIX_RUN, 1).all(-1)  # (M, W - run + 1)
    covered = torch.zeros_like(windows)
    for step in range(_HELIX_RUN):
        covered[..., step : step + starts.shape[-1]] |= starts
    return covered.sum(-1)


def _cb(
    x: Tensor, mask: Tensor, aatype: Tensor, cb: Tensor | None, cb_mask: Tensor | None
) -> tuple[Tensor | None, Tensor]:
    has_cb = mask & (aatype != _GLY)
    if cb_mask is not None:
        has_cb = has_cb & _expanded("cb_mask", cb_mask, tuple(x.shape[:2]))
    if cb is None:
        return None, has_cb
    if tuple(cb.shape) != (*x.shape[:2], 3):
        raise UserError(f"cb must be {(*x.shape[:2], 3)}, got {tuple(cb.shape)}")
    if not bool(cb[has_cb].isfinite().all()):
        raise UserError("cb holds NaN or infinity where cb_mask is True")
    return torch.where(has_cb[..., None], cb, x[..., CA, :]), has_cb


def _expanded(name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tuple(value.shape) not in (shape, shape[1:]):
        raise UserError(f"{name} must be {shape} or {shape[1:]}, got {tuple(value.shape)}")
    return value.expand(shape)


def _share(values: Tensor, where: Tensor) -> float:
    """Mean of ``values`` over the entries that are True in ``where``; NaN if none is."""
    return float(values[where].double().mean()) if bool(where.any()) else math.nan
