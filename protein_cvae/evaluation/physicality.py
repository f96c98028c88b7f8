"""What is physical about each conformer by itself, for ``physicality.json``.

No common format exists: samplers report shares of an ensemble or leave conformers out.  BioEmu
(Lewis et al. 2025, Science 389, eadv9817, ``filter_unphysical_traj``) keeps one where all
neighbours in a chain have CA nearer than 4.5 Å and C–N below 2.0 Å, and no two atoms of residues at
least three apart are within 1.0 Å; ``passes_bioemu`` is that rule on N, CA and C.  All other
numbers are those of :mod:`protein_cvae.geometry.validity`, counted per conformer.

The hand of a residue needs its Cβ.  N, CA and C show it through φ > 0 outside glycine and through
the hand of helices.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from protein_cvae.geometry.constants import CA, TOLERANCE, C, N
from protein_cvae.geometry.validity import Validity

CA_REACH, CN_REACH, ATOM_DISTANCE = 4.5, 2.0, 1.0  # Å, the limits of BioEmu's filter
_NEAREST = 3  # residues apart, from which on atoms can clash

Counts = dict[str, list[Any]]


def physicality(coordinates: Tensor, found: Validity) -> Counts:
    """A list of K entries for each number.

    Args:
        coordinates: (K, L, 3, 3) Å, all residues present.
        found: what :func:`~protein_cvae.geometry.validity.validity` says of them.
    """
    links = found.linked.sum(-1)
    bonds = torch.stack((found.present, found.present, found.linked), -1)
    angles = torch.stack((found.present, found.linked, found.linked), -1)
    helical = found.right_helix + found.left_helix
    values = {
        "bond_rms": _rms(found.bond_error, bonds),
        "angle_rms": _rms(found.angle_error, angles) * (180 / math.pi),
        "bonds_outside_4sd": _count(found.bond_z.abs() > TOLERANCE),
        "angles_outside_4sd": _count(found.angle_z.abs() > TOLERANCE),
        "peptide_bonds": links,
        "peptide_breaks": _count(found.broken),
        "peptide_severed": _count(found.severed),
        "torn": _count(found.torn),
        "cis": _count(found.cis),
        "ca_clashes": found.clashes,
        "ramachandran_scored": _count(found.has_torsions),
        "ramachandran_favoured": _count(found.favoured),
        "ramachandran_outliers": _count(found.outlier),
        "phi_scored": _count(found.has_phi),
        "positive_phi": _count(found.positive_phi),
        "helix_windows": helical,
        "left_handed_helix_windows": found.left_helix,
        "valid": found.valid,
        "passes_bioemu": passes_bioemu(coordinates, found.linked),
    }
    return {name: value.tolist() for name, value in values.items()}


def passes_bioemu(coordinates: Tensor, linked: Tensor) -> Tensor:
    """(K,) bool: inside the limits of BioEmu's filter, over N, CA and C.

    Args:
        coordinates: (K, L, 3, 3) Å.
        linked: (K, L) bool, residue i has a peptide bond to i + 1.
    """
    ends = coordinates[:, :-1], coordinates[:, 1:]
    link = linked[:, :-1]
    reach = (ends[0][:, :, CA] - ends[1][:, :, CA]).norm(dim=-1) < CA_REACH
    reach &= (ends[0][:, :, C] - ends[1][:, :, N]).norm(dim=-1) < CN_REACH
    residue = torch.arange(coordinates.shape[1]).repeat_interleave(3)
    far = (residue[:, None] - residue).abs() >= _NEAREST
    apart = [
        # Exact differences: the matrix-product form loses digits far from the origin.
        bool((torch.cdist(atoms, atoms, compute_mode="donot_use_mm_for_euclid_dist")[far]
              > ATOM_DISTANCE).all())
        for atoms in coordinates.flatten(1, 2).double()
    ]  # fmt: skip
    return (reach | ~link).all(1) & torch.tensor(apart)


def _count(values: Tensor) -> Tensor:
    """(K, ...) bool -> (K,) int64."""
    return values.flatten(1).sum(1)


def _rms(errors: Tensor, defined: Tensor) -> Tensor:
    """(K,) root mean square over the entries that are defined, NaN of none."""
    square = errors.double().square().masked_fill(~defined, 0.0)
    return (square.flatten(1).sum(1) / defined.flatten(1).sum(1)).sqrt()
