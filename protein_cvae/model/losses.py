"""Training losses of the decoder's output, one value per conformer.

A term is a function of a :class:`Scored` with its row in :data:`TERMS` and its weight, a field of
:class:`LossWeights` of the same name.

Every mean runs over entries that exist: present residues, defined dihedrals, bonded pairs.  Angles
are compared as angles (bonds) or through sine and cosine (dihedrals).  Where a mean has no entry it
is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from common.align import align
from common.errors import UserError
from protein_cvae.data.batch import ProteinBatch
from protein_cvae.geometry import constants
from protein_cvae.geometry.dihedrals import backbone_dihedrals, peptide_mask
from protein_cvae.geometry.internal import angle, distance
from protein_cvae.geometry.ramachandran import (
    outlier_energy,
    ramachandran_class,
    ramachandran_energy,
)
from protein_cvae.model.states import Decoded

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
        coil: of the torsions under their prior, nats per residue.
        tail: weight of a residue outside the ordered core beside 1 inside, in reconstruction.
        untemplated: of a conformer without template beside 1 with one; its errors are far larger.
        prior_geometry: of bond, angle, Ramachandran and clash terms of a draw from the prior.

    Raises:
        ValueError: on a weight that is negative or not a number.
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
    coil: float = 1.0
    tail: float = 0.3
    untemplated: float = 0.1
    prior_geometry: float = 0.3

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            for weight in value if isinstance(value, tuple | list) else (value,):
                if not 0 <= weight < math.inf:
                    raise UserError(f"weights.{name} must be finite and not negative, got {weight}")


@dataclass(frozen=True, eq=False)
class Scored:
    """Decoded conformers, and what they should be.

    Attributes:
        decoded: coordinates (B, L, 3, 3), Å, in any pose, and logits (B, L, 20).
        batch: the originals.
        mask: (B, L) bool, residues that were decoded.
        tail: weight of residues outside the core.
    """

    decoded: Decoded
    batch: ProteinBatch
    mask: Tensor
    tail: float = 1.0

    @property
    def coordinates(self) -> Tensor:
        """(B, L, 3, 3), Å."""
        return self.decoded.coordinates

    @cached_property
    def link(self) -> Tensor:
        """(B, L) bool, a peptide bond leads to the next residue."""
        return peptide_mask(self.batch.bonded, self.mask)

    @cached_property
    def atoms(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """N, CA, C, and N and CA of the next residue, (B, L, 3) each."""
        n, ca, c = self.coordinates.unbind(2)
        return n, ca, c, n.roll(-1, 1), ca.roll(-1, 1)


def reconstruction(x: Scored) -> Tensor:
    """Å², of N, CA, C superposed on the originals; see :attr:`LossWeights.reconstruction`."""
    coordinates, batch, mask = x.coordinates, x.batch, x.mask
    core = batch.core & mask
    # Where nothing is ordered, everything counts alike.
    core = torch.where(core.any(1, keepdim=True), core, mask)
    weight = torch.where(core, torch.ones_like(coordinates[..., 0, 0]), x.tail) * mask
    points, wanted = coordinates.flatten(1, 2), batch.coordinates.to(coordinates).flatten(1, 2)
    atom_weight = weight.repeat_interleave(3, dim=1)  # (B, 3L)
    moved = align(points, wanted, atom_weight).apply(points)
    square = (moved - wanted).square().sum(-1)
    # Bent towards _FAR², so that a lost tail or a start without template does not drown the rest.
    square = square / (1 + square / _FAR**2)
    square = torch.where(atom_weight > 0, square, torch.zeros_like(square))
    return (square * atom_weight).sum(1) / atom_weight.sum(1).clamp_min(1e-6)


def pair_distance(x: Scored) -> Tensor:
    """Å, error of the CA distances of every fourth residue."""
    coordinates, strided = x.coordinates, slice(None, None, _PAIR_STRIDE)
    ca, ca_true = coordinates[:, strided, 1], x.batch.coordinates.to(coordinates)[:, strided, 1]
    present = x.mask[:, strided]
    pair = present[:, :, None] & present[:, None, :]
    pair = pair & ~torch.eye(ca.shape[1], dtype=torch.bool, device=ca.device)
    gap = (_distances(ca) - _distances(ca_true)).abs()
    return _mean(gap.flatten(1), pair.flatten(1))


def dihedral(x: Scored) -> Tensor:
    """|(sin a, cos a) - (sin b, cos b)|² of φ, ψ and ω."""
    coordinates, batch, mask = x.coordinates, x.batch, x.mask
    total, pairs = coordinates.new_zeros(len(mask)), coordinates.new_zeros(len(mask))
    decoded, defined = backbone_dihedrals(coordinates, batch.bonded, mask)
    true, defined_true = backbone_dihedrals(batch.coordinates.to(coordinates), batch.bonded, mask)
    for torsion, torsion_true, known, known_true in zip(
        decoded, true, defined, defined_true, strict=True
    ):
        both = (known & known_true).to(coordinates)
        # |(sin a, cos a) - (sin b, cos b)|² = 2 - 2 cos(a - b)
        total = total + ((2 - 2 * (torsion - torsion_true).cos()) * both).sum(1)
        pairs = pairs + both.sum(1)
    return total / pairs.clamp_min(1)


def sequence(x: Scored) -> Tensor:
    """Cross-entropy of the residue types, nats."""
    logits, aatype = x.decoded.logits, x.batch.aatype
    named = x.mask & (aatype < logits.shape[-1])
    target = torch.where(named, aatype, torch.zeros_like(aatype))
    entropy = -logits.log_softmax(-1).gather(-1, target[..., None])[..., 0]
    return _mean(entropy, named)


def bond(x: Scored) -> Tensor:
    """Huber of C-N from its ideal, Å."""
    _, _, c, n_next, _ = x.atoms
    return _mean(_huber(distance(c, n_next, x.link) - constants.C_N.ideal, _BOND_DELTA), x.link)


def bond_angle(x: Scored) -> Tensor:
    """Huber of both angles at the peptide bond from their ideals, radians."""
    _, ca, c, n_next, ca_next = x.atoms
    first = angle(ca, c, n_next, x.link) - constants.CA_C_N.ideal
    second = angle(c, n_next, ca_next, x.link) - constants.C_N_CA.ideal
    return _mean(_huber(first, _ANGLE_DELTA) + _huber(second, _ANGLE_DELTA), x.link)


def ramachandran(x: Scored) -> Tensor:
    """Nats of φ, ψ above a limit below the outlier contour."""
    coordinates, batch = x.coordinates, x.batch
    angles, defined = backbone_dihedrals(coordinates, batch.bonded, x.mask)
    kind = ramachandran_class(batch.aatype, angles.omega.detach(), batch.bonded)
    limit = outlier_energy(coordinates.dtype).to(coordinates.device)[kind] - _RAMACHANDRAN_MARGIN
    energy = (ramachandran_energy(angles.phi, angles.psi, kind) - limit).relu()
    return _mean(energy, defined.phi & defined.psi)


def clash(x: Scored) -> Tensor:
    """Å² of overlap of CA three or more residues apart, per residue."""
    mask, ca = x.mask, x.atoms[1]
    place = torch.arange(mask.shape[1], device=mask.device)
    far = (place[:, None] - place).abs() >= 3
    pair = mask[:, :, None] & mask[:, None, :] & far
    overlap = (_CLASH_DISTANCE - _distances(ca)).relu().square()
    total = torch.where(pair, overlap, torch.zeros_like(overlap)).sum((1, 2))
    return total / mask.sum(1).clamp_min(1)


class Term(NamedTuple):
    """A term: its function, and whether it needs the original (else a draw has it too)."""

    score: Callable[[Scored], Tensor]
    needs_target: bool


TERMS = {
    "reconstruction": Term(reconstruction, True),
    "pair_distance": Term(pair_distance, True),
    "dihedral": Term(dihedral, True),
    "sequence": Term(sequence, True),
    "bond": Term(bond, False),
    "angle": Term(bond_angle, False),
    "ramachandran": Term(ramachandran, False),
    "clash": Term(clash, False),
}


def fit_terms(
    decoded: Decoded, batch: ProteinBatch, mask: Tensor, tail: float
) -> dict[str, Tensor]:
    """How far decoded conformers are from their originals, (B,) by term; see :class:`Scored`."""
    x = Scored(decoded, batch, mask, tail)
    return {name: term.score(x) for name, term in TERMS.items() if term.needs_target}


def geometry_terms(decoded: Decoded, batch: ProteinBatch, mask: Tensor) -> dict[str, Tensor]:
    """How far conformers are from ideal geometry, before any projection, (B,) by term.

    N-CA, CA-C and the angle between them are exact in the decoder's output, so only the peptide
    bond, its two angles, the torsions and clashes are left.
    """
    x = Scored(decoded, batch, mask)
    return {name: term.score(x) for name, term in TERMS.items() if not term.needs_target}


def weighted(weights: LossWeights, terms: Mapping[str, Tensor], progress: float) -> Tensor:
    """(B,) weighted sum of terms; a pair runs from first to last over ``progress`` in [0, 1]."""
    total: Tensor | None = None
    for name, value in terms.items():
        weight = getattr(weights, name)
        if isinstance(weight, tuple):
            first, last = weight
            weight = first + (last - first) * min(max(progress, 0.0), 1.0)
        total = weight * value if total is None else total + weight * value
    assert total is not None, "there are terms"
    return total


def batch_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean of (B,) with the items' weights."""
    return (values * weight).sum() / weight.sum().clamp_min(1e-12)


def means(terms: Mapping[str, Tensor], weight: Tensor) -> dict[str, Tensor]:
    """Weighted batch mean of each term by name."""
    return {name: batch_mean(value, weight) for name, value in terms.items()}


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
