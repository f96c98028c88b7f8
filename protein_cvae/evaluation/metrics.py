"""How far a generated ensemble is from the real models of the same protein.

CA coordinates, Å, every comparison after superposition (Kabsch, no reflection) over the residues it
is about: give ``mask`` for all residues present, or the ordered core for the core.

* Angular order parameter S(θ) = |Σ_m e^{iθ_m}| / M over M models; the core is S(φ) + S(ψ) ≥ 1.8
  (Hyberts et al. 1992, Protein Sci. 1, 736-751).
* minRMSD of a real model: to its nearest generated one, averaged over real models (coverage);
  precision: the reverse.  Coverage fraction: real models with a minRMSD below a threshold.
* Spread: mean RMSD over pairs of different models.  RMSF(i) = sqrt(mean_m |x_mi − x̄_i|²) about the
  mean of the models superposed on it.
* PCA 2-Wasserstein: both ensembles superposed on the mean of reference models and projected on
  the reference's first two principal components, divided by √(number of residues) so that distances
  read as an RMSD; W₂² = min over couplings of E|x − y|², exact for the two samples (projection and
  scaling as in Jing et al. 2024, AlphaFlow, arXiv:2402.04845).
* Active units: latent dimensions whose posterior mean has variance > 0.01 over the data (Burda et
  al. 2016, arXiv:1509.00519).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment, linprog
from scipy.sparse import csr_array
from torch import Tensor

from common.align import align, aligned_rmsd
from common.errors import UserError
from protein_cvae.geometry.dihedrals import backbone_dihedrals

CORE_ORDER = 1.8
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
    first, second = _select("first", first, mask), _select("second", second, mask)
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


def spread(coordinates: Tensor, mask: Tensor | None = None) -> float:
    """Mean RMSD in Å over the pairs of different models, (M, L, 3) with M ≥ 2."""
    count = len(coordinates)
    if count < 2:
        raise UserError(f"coordinates must hold at least two models, got {count}")
    return float(pairwise_rmsd(coordinates, coordinates, mask).sum() / (count * (count - 1)))


def superpose_on_mean(
    coordinates: Tensor, weights: Tensor | None = None, rounds: int = 20
) -> tuple[Tensor, Tensor]:
    """Superpose models on their own mean, again and again until it stands still.

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
    moved, mean = superpose_on_mean(_select("coordinates", coordinates, mask))
    return (moved - mean).square().sum(-1).mean(0).sqrt()


def correlation(first: Tensor, second: Tensor) -> float:
    """Pearson correlation of two (n,) profiles; NaN where one is constant."""
    a, b = first.double() - first.double().mean(), second.double() - second.double().mean()
    return float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())


def pca_wasserstein(
    generated: Tensor,
    real: Tensor,
    mask: Tensor | None = None,
    reference: Tensor | None = None,
    components: int = 2,
) -> float:
    """2-Wasserstein distance in Å per √residue in the reference's principal components.

    Args:
        generated: (K, L, 3) CA.
        real: (M, L, 3).
        mask: (L,) bool, residues compared.
        reference: (R, L, 3) models whose mean and components are used; ``real`` if omitted.
        components: how many, fewer where the reference does not have as many.
    """
    chosen = _select("reference", real if reference is None else reference, mask)
    moved, mean = superpose_on_mean(chosen)
    _, _, axes = torch.linalg.svd((moved - mean).flatten(1), full_matrices=False)
    axes = axes[: min(components, len(chosen) - 1)]
    points = []
    for name, models in (("generated", generated), ("real", real)):
        models = _select(name, models, mask)
        gap = align(models, mean.expand_as(models)).apply(models) - mean
        points.append((gap.flatten(1) @ axes.mT / gap.shape[1] ** 0.5).double().numpy(force=True))
    return wasserstein(*points)


def wasserstein(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Exact 2-Wasserstein distance of two samples (K, D) and (M, D) of equal weights."""
    cost = ((first[:, None] - second[None]) ** 2).sum(-1)  # (K, M)
    k, m = cost.shape
    if k == m:  # an optimal coupling is a permutation
        return float(np.sqrt(cost[linear_sum_assignment(cost)].mean()))
    pair = np.arange(k * m)
    one = np.ones(2 * k * m)
    rows = np.concatenate((pair // m, k + pair % m))
    marginals = csr_array((one, (rows, np.concatenate((pair, pair)))), shape=(k + m, k * m))
    shares = np.concatenate((np.full(k, 1 / k), np.full(m, 1 / m)))
    solved = linprog(cost.ravel(), A_eq=marginals, b_eq=shares, method="highs")
    if not solved.success:
        raise RuntimeError(f"the transport problem was not solved: {solved.message}")
    return float(np.sqrt(max(solved.fun, 0.0)))


@dataclass(frozen=True)
class EnsembleScores:
    """Generated against real, Å where a length; see the module's text."""

    min_rmsd: float
    coverage: float
    precision: float
    spread: float
    spread_ratio: float
    rmsf_correlation: float
    wasserstein: float


def compare(
    generated: Tensor,
    real: Tensor,
    mask: Tensor | None = None,
    *,
    reference: Tensor | None = None,
    threshold: float = 1.0,
) -> EnsembleScores:
    """All scores of (K, L, 3) generated against (M, L, 3) real CA coordinates, K, M ≥ 2.

    Args:
        generated: generated models.
        real: real models, those held out where there was training.
        mask: (L,) bool, residues superposed and compared; all if omitted.
        reference: (R, L, 3) real models that set the spread, the RMSF profile and the principal
            components, e.g. all of the ensemble; ``real`` if omitted.
        threshold: of the coverage fraction, Å.
    """
    base = real if reference is None else reference
    matrix = pairwise_rmsd(generated, real, mask)  # (K, M)
    nearest = matrix.amin(0)
    own = spread(generated, mask)
    return EnsembleScores(
        min_rmsd=float(nearest.mean()),
        coverage=float((nearest < threshold).double().mean()),
        precision=float(matrix.amin(1).mean()),
        spread=own,
        spread_ratio=own / spread(base, mask),
        rmsf_correlation=correlation(rmsf(generated, mask), rmsf(base, mask)),
        wasserstein=pca_wasserstein(generated, real, mask, base),
    )


def active_units(means: Tensor, mask: Tensor | None = None, threshold: float = 0.01) -> Tensor:
    """(D,) bool: variance of the posterior means (..., D) over the entries in ``mask`` (...)."""
    rows = means.flatten(0, -2) if mask is None else means[mask]
    if len(rows) < 2:
        raise UserError(f"means must hold at least two entries, got {len(rows)}")
    return rows.var(0) > threshold


@dataclass(frozen=True)
class SequenceRecovery:
    """Share of residues predicted right, and by always naming the commonest residue."""

    recovery: float
    commonest: float


def sequence_recovery(
    predicted: Tensor, aatype: Tensor, mask: Tensor, training_aatype: Tensor | None = None
) -> SequenceRecovery:
    """Recovery over known residues in ``mask``.

    Args:
        predicted: (...) int64 residues, e.g. the argmax of logits.
        aatype: (...) int64, the truth; 20 (unknown) does not count.
        mask: (...) bool.
        training_aatype: (n,) int64, residues the commonest is taken from; the truth itself, which
            favours the baseline, if omitted.
    """
    known = mask & (aatype >= 0) & (aatype < 20)
    if not bool(known.any()):
        raise UserError("mask leaves no known residue to score")
    truth = aatype[known]
    source = truth if training_aatype is None else training_aatype[training_aatype < 20]
    commonest = torch.bincount(source, minlength=20).argmax()
    return SequenceRecovery(
        recovery=float((predicted[known] == truth).double().mean()),
        commonest=float((truth == commonest).double().mean()),
    )


def _select(name: str, coordinates: Tensor, mask: Tensor | None) -> Tensor:
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
