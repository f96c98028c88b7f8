"""Superposition of ensembles: the ordered core, the mean structure, RMSD of pairs, RMSF.

* Angular order parameter S(θ) = |Σ_m e^{iθ_m}| / M over M models; the core is S(φ) + S(ψ) ≥ 1.8
  (Hyberts et al. 1992, Protein Sci. 1, 736-751).
* RMSD after superposition (Kabsch, no reflection), Å; RMSF(i) = sqrt(mean_m |x_mi − x̄_i|²) about
  the mean of the models superposed on it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.align import align, aligned_rmsd
from common.errors import UserError
from protein_cvae.geometry.dihedrals import backbone_dihedrals

CORE_ORDER = 1.8
# Fewest points whose superposition is used; three alone may lie on a line.
MIN_SUPERPOSED = 4
_BLOCK_NUMBERS = 4_000_000  # of coordinates superposed at once


def order_parameter(angles: Tensor, defined: Tensor) -> Tensor:
    """(M, L) radians and where they are defined -> (L,) in [0, 1]; 0 where none is."""
    weight = defined.to(angles.dtype)
    count = weight.sum(0).clamp_min(1)
    return torch.hypot((weight * angles.cos()).sum(0), (weight * angles.sin()).sum(0)) / count


def core_mask(coordinates: Tensor, bonded: Tensor, mask: Tensor) -> Tensor:
    """(L,) bool: residues present in every model with S(φ) + S(ψ) ≥ 1.8.

    Args:
        coordinates: (M, L, 3, 3) Å.
        bonded: (L,) or (M, L) bool.
        mask: (M, L) bool.
    """
    angles, defined = backbone_dihedrals(coordinates, bonded.expand(mask.shape), mask)
    order = order_parameter(angles.phi, defined.phi) + order_parameter(angles.psi, defined.psi)
    return (order >= CORE_ORDER) & mask.all(0) & (defined.phi & defined.psi).all(0)


def pairwise_rmsd(first: Tensor, second: Tensor, mask: Tensor | None = None) -> Tensor:
    """(K, M) RMSD in Å of every pair, each superposed on the other over the residues in ``mask``.

    Args:
        first: (K, L, 3) CA coordinates.
        second: (M, L, 3), same type.
        mask: (L,) bool, residues compared, present in all models; all if omitted.

    Raises:
        ValueError: if the shapes do not fit or fewer than three residues are compared.
    """
    first, second = chosen_residues("first", first, mask), chosen_residues("second", second, mask)
    if first.shape[1] != second.shape[1]:
        raise UserError(
            f"first and second must have as many residues, got {first.shape[1]}, {second.shape[1]}"
        )
    rows = max(1, _BLOCK_NUMBERS // max(1, second.numel()))
    blocks = []
    for block in first.split(rows):
        shape = (len(block), *second.shape)
        blocks.append(aligned_rmsd(block[:, None].expand(shape), second[None].expand(shape)))
    return torch.cat(blocks)


def mean_rmsd(coordinates: Tensor, mask: Tensor | None = None) -> float:
    """Mean RMSD in Å over the pairs of different models, (M, L, 3) with M ≥ 2."""
    count = len(coordinates)
    if count < 2:
        raise UserError(f"coordinates must hold at least two models, got {count}")
    return float(pairwise_rmsd(coordinates, coordinates, mask).sum() / (count * (count - 1)))


def superpose_on_mean(
    coordinates: Tensor, weights: Tensor | None = None, rounds: int = 20
) -> tuple[Tensor, Tensor]:
    """Superpose models on their own mean, repeated until the mean stays.

    Args:
        coordinates: (M, P, 3) Å.
        weights: (P,) not negative, or bool: the points that decide the superposition.
        rounds: at most so many superpositions.

    Returns:
        ``(moved, mean)``: (M, P, 3) and (P, 3), in the pose of the first model.
    """
    each = None if weights is None else weights.expand(coordinates.shape[:2])
    mean = coordinates[0]
    for _ in range(rounds):
        moved = align(coordinates, mean.expand_as(coordinates), each).apply(coordinates)
        step = (moved.mean(0) - mean).abs().max()
        mean = moved.mean(0)
        if step < 1e-6:
            break
    return moved, mean


def rmsf(coordinates: Tensor, mask: Tensor | None = None) -> Tensor:
    """(L',) Å, fluctuation of the residues in ``mask`` about their mean; (M, L, 3) CA."""
    moved, mean = superpose_on_mean(chosen_residues("coordinates", coordinates, mask))
    return (moved - mean).square().sum(-1).mean(0).sqrt()


def chosen_residues(name: str, coordinates: Tensor, mask: Tensor | None) -> Tensor:
    """(M, L, 3) at the residues in ``mask`` (L,), all if None; ``name`` is for messages.

    Raises:
        ValueError: on other shapes, or fewer than three residues.
    """
    if coordinates.dim() != 3 or coordinates.shape[-1] != 3 or len(coordinates) == 0:
        raise UserError(f"{name} must be (M, L, 3) with M >= 1, got {tuple(coordinates.shape)}")
    if mask is not None:
        if tuple(mask.shape) != (coordinates.shape[1],) or mask.dtype != torch.bool:
            raise UserError(
                f"mask must be ({coordinates.shape[1]},) bool, got {tuple(mask.shape)} {mask.dtype}"
            )
        coordinates = coordinates[:, mask]
    if coordinates.shape[1] < 3:
        raise UserError(
            f"{name}: a superposition needs at least three residues, got {coordinates.shape[1]}"
        )
    return coordinates
