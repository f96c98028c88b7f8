"""How far a generated ensemble is from the real models of the same protein.

CA coordinates, Å, every comparison after superposition (Kabsch, no reflection) over the residues it
is about: give ``mask`` for all residues present, or the ordered core for the core.

* minRMSD of a real model: to its nearest generated one, averaged over real models (coverage);
  precision: the reverse.  Coverage fraction: real models with a minRMSD below a threshold.
* Spread: mean RMSD over pairs of different models; the spread ratio is to that of real models.
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

from common.align import align
from common.errors import UserError
from protein_cvae.geometry.superposition import (
    chosen_residues,
    mean_rmsd,
    pairwise_rmsd,
    rmsf,
    superpose_on_mean,
)

ACTIVE_VARIANCE = 0.01


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
    chosen = chosen_residues("reference", real if reference is None else reference, mask)
    moved, mean = superpose_on_mean(chosen)
    _, _, axes = torch.linalg.svd((moved - mean).flatten(1), full_matrices=False)
    axes = axes[: min(components, len(chosen) - 1)]
    points = []
    for name, models in (("generated", generated), ("real", real)):
        models = chosen_residues(name, models, mask)
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
    own = mean_rmsd(generated, mask)
    return EnsembleScores(
        min_rmsd=float(nearest.mean()),
        coverage=float((nearest < threshold).double().mean()),
        precision=float(matrix.amin(1).mean()),
        spread=own,
        spread_ratio=own / mean_rmsd(base, mask),
        rmsf_correlation=correlation(rmsf(generated, mask), rmsf(base, mask)),
        wasserstein=pca_wasserstein(generated, real, mask, base),
    )


def active_dimensions(count: int, total: Tensor, square: Tensor) -> Tensor:
    """(D,) bool: the variance of n >= 2 vectors is above 0.01, from their sums.

    Args:
        count: n.
        total: (D,) float64 sum of the vectors.
        square: (D,) float64 sum of their squares.

    Raises:
        ValueError: of fewer than two vectors.
    """
    if count < 2:
        raise UserError(f"means must hold at least two entries, got {count}")
    mean = total / count
    variance = (square / count - mean.square()) * count / (count - 1)
    return variance > ACTIVE_VARIANCE


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
