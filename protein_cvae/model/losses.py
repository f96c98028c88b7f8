"""Training losses of the decoder's output, one value per conformer.

Every mean runs over entries that exist: present residues, defined dihedrals, bonded pairs.  Angles
are compared as angles (bonds) or through sine and cosine (dihedrals).  Where a mean has no entry it
is 0.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from common.align import align
from protein_cvae.data.batch import ProteinBatch
from protein_cvae.geometry import constants
from protein_cvae.geometry.dihedrals import backbone_dihedrals, peptide_mask
from protein_cvae.geometry.internal import angle, distance
from protein_cvae.geometry.ramachandran import (
    outlier_energy,
    ramachandran_class,
    ramachandran_energy,
)

# Every 4th residue enters the pair distances.
_PAIR_STRIDE = 4
_BOND_DELTA = 0.15
_FAR = 10.0  # Å
_ANGLE_DELTA = 0.2
# The energy is pushed down to this many nats below the outlier contour, not to its minimum.
_RAMACHANDRAN_MARGIN = 1.5
# CA of residues three or more apart do not come closer in real structures (Å).
_CLASH_DISTANCE = 3.9


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms; pairs run linearly from the first to the last training step.

    Attributes:
        reconstruction: per Å² of the superposed N, CA, C; squares d² enter as d² / (1 + d² / 100).
        pair_distance: per Å of CA distances.
        dihedral: of the squared differences of sine and cosine.
        ramachandran: per nat above the limit.
        bond: Huber of C-N, Å; (first, last).
        angle: Huber of the angles at the peptide bond, radians; (first, last).
        clash: per Å² of CA-CA overlap.
        sequence: cross-entropy, nats; (first, last).
        kl_global: of the global latent, nats per residue.
        kl_local: of the local latent, nats per residue.
        tail: weight of a residue outside the ordered core beside 1 inside, in reconstruction.
        untemplated: of a conformer without template beside 1 with one; its errors are far larger.
        prior_geometry: of bond, angle, Ramachandran and clash terms of a draw from the prior.
    """

    reconstruction: float = 50.0
    pair_distance: float = 30.0
    dihedral: float = 0.5
    ramachandran: float = 5.0
    bond: tuple[float, float] = (200.0, 400.0)
    angle: tuple[float, float] = (30.0, 100.0)
    clash: float = 5.0
    sequence: tuple[float, float] = (20.0, 80.0)
    kl_global: float = 0.5
    kl_local: float = 0.5
    tail: float = 0.3
    untemplated: float = 0.1
    prior_geometry: float = 0.3


@dataclass(frozen=True)
class GeometryTerms:
    """Terms that need no target, (B,) each."""

    bond: Tensor
    angle: Tensor
    ramachandran: Tensor
    clash: Tensor


@dataclass(frozen=True)
class FitTerms:
    """Terms against the conformer, (B,) each."""

    reconstruction: Tensor
    pair_distance: Tensor
    dihedral: Tensor
    sequence: Tensor


def fit_terms(
    coordinates: Tensor, logits: Tensor, batch: ProteinBatch, mask: Tensor, tail: float
) -> FitTerms:
    """How far decoded conformers are from their originals.

    Args:
        coordinates: (B, L, 3, 3) decoded, Å, in any pose.
        logits: (B, L, 20).
        batch: the originals.
        mask: (B, L) bool, residues that were decoded.
        tail: weight of residues outside the core.
    """
    core = batch.core & mask
    # Where nothing is ordered, everything counts alike.
    core = torch.where(core.any(1, keepdim=True), core, mask)
    weight = torch.where(core, torch.ones_like(coordinates[..., 0, 0]), tail) * mask
    points, wanted = coordinates.flatten(1, 2), batch.coordinates.to(coordinates).flatten(1, 2)
    atom_weight = weight.repeat_interleave(3, dim=1)  # (B, 3L)
    moved = align(points, wanted, atom_weight).apply(points)
    square = (moved - wanted).square().sum(-1)
    # Bent towards _FAR², so that a lost tail or a start without template does not drown the rest.
    square = square / (1 + square / _FAR**2)
    square = torch.where(atom_weight > 0, square, torch.zeros_like(square))
    reconstruction = (square * atom_weight).sum(1) / atom_weight.sum(1).clamp_min(1e-6)

    strided = slice(None, None, _PAIR_STRIDE)
    ca, ca_true = coordinates[:, strided, 1], batch.coordinates.to(coordinates)[:, strided, 1]
    present = mask[:, strided]
    pair = present[:, :, None] & present[:, None, :]
    pair = pair & ~torch.eye(ca.shape[1], dtype=torch.bool, device=ca.device)
    gap = (_distances(ca) - _distances(ca_true)).abs()

    dihedral, defined_pairs = coordinates.new_zeros(len(mask)), coordinates.new_zeros(len(mask))
    decoded, defined = backbone_dihedrals(coordinates, batch.bonded, mask)
    true, defined_true = backbone_dihedrals(batch.coordinates.to(coordinates), batch.bonded, mask)
    for torsion, torsion_true, known, known_true in zip(
        decoded, true, defined, defined_true, strict=True
    ):
        both = (known & known_true).to(coordinates)
        # |(sin a, cos a) - (sin b, cos b)|² = 2 - 2 cos(a - b)
        dihedral = dihedral + ((2 - 2 * (torsion - torsion_true).cos()) * both).sum(1)
        defined_pairs = defined_pairs + both.sum(1)

    named = mask & (batch.aatype < logits.shape[-1])
    target = torch.where(named, batch.aatype, torch.zeros_like(batch.aatype))
    entropy = -logits.log_softmax(-1).gather(-1, target[..., None])[..., 0]
    return FitTerms(
        reconstruction=reconstruction,
        pair_distance=_mean(gap.flatten(1), pair.flatten(1)),
        dihedral=dihedral / defined_pairs.clamp_min(1),
        sequence=_mean(entropy, named),
    )


def geometry_terms(
    coordinates: Tensor, aatype: Tensor, bonded: Tensor, mask: Tensor
) -> GeometryTerms:
    """How far conformers (B, L, 3, 3) are from ideal geometry, before any projection.

    N-CA, CA-C and the angle between them are exact in the decoder's output, so only the peptide
    bond, its two angles, the torsions and clashes are left.
    """
    link = peptide_mask(bonded, mask)
    n, ca, c = coordinates.unbind(2)
    n_next, ca_next = n.roll(-1, 1), ca.roll(-1, 1)
    bond = _huber(distance(c, n_next, link) - constants.C_N.ideal, _BOND_DELTA)
    first = angle(ca, c, n_next, link) - constants.CA_C_N.ideal
    second = angle(c, n_next, ca_next, link) - constants.C_N_CA.ideal
    bend = _huber(first, _ANGLE_DELTA) + _huber(second, _ANGLE_DELTA)

    angles, defined = backbone_dihedrals(coordinates, bonded, mask)
    kind = ramachandran_class(aatype, angles.omega.detach(), bonded)
    limit = outlier_energy(coordinates.dtype).to(coordinates.device)[kind] - _RAMACHANDRAN_MARGIN
    energy = (ramachandran_energy(angles.phi, angles.psi, kind) - limit).relu()

    place = torch.arange(mask.shape[1], device=mask.device)
    far = (place[:, None] - place).abs() >= 3
    pair = mask[:, :, None] & mask[:, None, :] & far
    overlap = (_CLASH_DISTANCE - _distances(ca)).relu().square()
    clash = torch.where(pair, overlap, torch.zeros_like(overlap)).sum((1, 2))
    return GeometryTerms(
        bond=_mean(bond, link),
        angle=_mean(bend, link),
        ramachandran=_mean(energy, defined.phi & defined.psi),
        clash=clash / mask.sum(1).clamp_min(1),
    )


def at_progress(pair: tuple[float, float], progress: float) -> float:
    """A weight that runs linearly from ``pair[0]`` to ``pair[1]`` as progress runs over [0, 1]."""
    return pair[0] + (pair[1] - pair[0]) * min(max(progress, 0.0), 1.0)


def weighted(weights: LossWeights, fit: FitTerms, progress: float) -> Tensor:
    """(B,) weighted sum of the terms against the conformer."""
    return (
        weights.reconstruction * fit.reconstruction
        + weights.pair_distance * fit.pair_distance
        + weights.dihedral * fit.dihedral
        + at_progress(weights.sequence, progress) * fit.sequence
    )


def weighted_geometry(weights: LossWeights, terms: GeometryTerms, progress: float) -> Tensor:
    """(B,) weighted sum of the geometry terms."""
    return (
        at_progress(weights.bond, progress) * terms.bond
        + at_progress(weights.angle, progress) * terms.angle
        + weights.ramachandran * terms.ramachandran
        + weights.clash * terms.clash
    )


def batch_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean of (B,) with the items' weights."""
    return (values * weight).sum() / weight.sum().clamp_min(1e-12)


def means(terms: FitTerms | GeometryTerms, weight: Tensor) -> dict[str, Tensor]:
    """Weighted batch mean of each term by name."""
    return {f.name: batch_mean(getattr(terms, f.name), weight) for f in fields(terms)}


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    values = torch.where(mask, values, torch.zeros_like(values))
    return values.sum(1) / mask.sum(1).clamp_min(1)


def _norm(x: Tensor) -> Tensor:
    # Finite gradient also where two atoms coincide, as they do in padding.
    return (x.square().sum(-1) + 1e-8).sqrt()


def _distances(x: Tensor) -> Tensor:
    return _norm(x[:, :, None] - x[:, None, :])


def _huber(x: Tensor, delta: float) -> Tensor:
    return torch.nn.functional.huber_loss(x, torch.zeros_like(x), reduction="none", delta=delta)
