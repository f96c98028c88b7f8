"""Simple ways to make an ensemble, to compare a trained model with.

Each takes training models (M, L, 3, 3) Å of one protein and gives K conformers (K, L, 3, 3):

* ``pca``: the Gaussian with the mean and covariance of the superposed training models,
  x̄ + Σ_m g_m (x_m − x̄) / √(M − 1), g standard normal: sampling in all principal components.
* ``network``: anisotropic network model about the training model nearest to the others (Atilgan
  et al. 2001, Biophys. J. 80, 505-515): springs between CA within 15 Å; the 20 slowest normal
  modes, of variance 1/λ, move each residue's atoms together, scaled to the mean pairwise CA-RMSD
  of the training models.
* ``noise``: independent Gaussian noise on every atom of the mean, of the training RMSF of its
  residue.
* ``training``: training models themselves, in turn.

:func:`constrained` puts a projection to valid geometry behind any of them.  Reconstruction of a
model by what such a baseline can express: :func:`pca_reconstruction` and
:func:`network_reconstruction`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from common.align import align
from common.errors import UserError
from protein_cvae.geometry.constants import CA
from protein_cvae.geometry.superposition import mean_rmsd, pairwise_rmsd, superpose_on_mean

Baseline = Callable[[Tensor, Tensor, int, torch.Generator], Tensor]
"""(training (M, L, 3, 3), weights (L,) of the superposition, K, generator) -> (K, L, 3, 3)."""

NETWORK_CUTOFF = 15.0  # Å
NETWORK_MODES = 20  # the slowest; faster ones mostly bend the chain locally and break its geometry


def pca_sampling(
    training: Tensor, weights: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """Draws from the Gaussian of the superposed training models; M ≥ 2."""
    moved, mean = _superposed(training, weights)  # (M, 3L, 3), (3L, 3)
    draws = _normal((count, len(moved)), training, generator) / (len(moved) - 1) ** 0.5
    return (mean + torch.einsum("km,mpx->kpx", draws, moved - mean)).unflatten(1, (-1, 3))


def network_sampling(
    training: Tensor,
    weights: Tensor,
    count: int,
    generator: torch.Generator,
    centre: Tensor | None = None,
) -> Tensor:
    """Thermal motion of an elastic network about ``centre``, as wide as the training models.

    As wide where the weight is positive: by all residues the tails decide.  The centre (L, 3, 3) is
    the medoid of the training models by all CA if omitted.
    """
    ca, used = training[:, :, CA], weights > 0
    if centre is None:
        centre = training[pairwise_rmsd(ca, ca).sum(1).argmin()]
    variance, modes = network_modes(centre[:, CA])
    variance, modes = variance[:NETWORK_MODES], modes[:, :NETWORK_MODES]
    draws = _normal((count, len(variance)), training, generator) * variance.sqrt()
    move = (draws @ modes.mT).unflatten(1, (-1, 3))  # (K, L, 3)
    wanted = mean_rmsd(ca, used)
    # Superposition takes out a part that grows with the amplitude: a few rounds settle it.
    factor = wanted / mean_rmsd(move + centre[:, CA], used)
    for _ in range(4):
        factor = factor * wanted / mean_rmsd(factor * move + centre[:, CA], used)
    return centre + factor * move[:, :, None]


def noise_sampling(
    training: Tensor, weights: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """The mean with independent noise on each atom, of its residue's RMSF."""
    moved, mean = _superposed(training, weights)
    gaps = (moved - mean).unflatten(1, (-1, 3))  # (M, L, 3, 3)
    deviation = gaps.square().mean((0, 2, 3)).sqrt()  # (L,) per axis
    noise = _normal((count, *training.shape[1:]), training, generator)
    return mean.unflatten(0, (-1, 3)) + deviation[:, None, None] * noise


def training_models(
    training: Tensor, weights: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """The training models, at most ``count`` of them, in their order."""
    return training[:count]


BASELINES: dict[str, Baseline] = {
    "training": training_models,
    "noise": noise_sampling,
    "network": network_sampling,
    "pca": pca_sampling,
}


def constrained(baseline: Baseline, projection: Callable[[Tensor], Tensor]) -> Baseline:
    """``baseline`` followed by ``projection`` (K, L, 3, 3) -> (K, L, 3, 3)."""

    def run(training: Tensor, weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
        return projection(baseline(training, weights, count, generator))

    return run


def network_modes(ca: Tensor, cutoff: float = NETWORK_CUTOFF) -> tuple[Tensor, Tensor]:
    """Normal modes of an anisotropic network: CA (L, 3) -> variances (m,), modes (3L, m).

    The Hessian's off-diagonal blocks are −u uᵀ, u the unit vector between two CA within ``cutoff``
    Å, its diagonal blocks make the rows sum to zero; variance is 1 / eigenvalue.  Rigid motions
    (eigenvalue 0) are left out; a network that falls apart has more than six of them.

    Raises:
        ValueError: unless ca is (L, 3) with L ≥ 3.
    """
    if ca.dim() != 2 or ca.shape[1] != 3 or len(ca) < 3:
        raise UserError(f"ca must be (L, 3) with L >= 3, got {tuple(ca.shape)}")
    gap = ca[:, None] - ca[None]  # (L, L, 3)
    square = gap.square().sum(-1)
    near = (square < cutoff**2) & (square > 0)
    unit = gap * torch.where(near, square, torch.ones_like(square)).rsqrt()[..., None]
    blocks = -torch.einsum("ijx,ijy->ijxy", unit, unit) * near[..., None, None]
    index = torch.arange(len(ca), device=ca.device)
    blocks[index, index] = -blocks.sum(1)
    hessian = blocks.permute(0, 2, 1, 3).reshape(3 * len(ca), 3 * len(ca))
    values, modes = torch.linalg.eigh(hessian.double())
    keep = values > 1e-6 * values[-1]
    return (1 / values[keep]).to(ca.dtype), modes[:, keep].to(ca.dtype)


def pca_reconstruction(training: Tensor, weights: Tensor, models: Tensor) -> Tensor:
    """``models`` (K, L, 3, 3) projected on the training models' principal components."""
    moved, mean = _superposed(training, weights)
    _, values, axes = torch.linalg.svd((moved - mean).flatten(1), full_matrices=False)
    axes = axes[values > 1e-5 * values[0]]
    gap = (_onto(models, mean, weights) - mean).flatten(1)
    return (mean.flatten() + gap @ axes.mT @ axes).reshape(models.shape)


def network_reconstruction(
    start: Tensor, weights: Tensor, models: Tensor, modes_used: int = NETWORK_MODES
) -> Tensor:
    """``models`` (K, L, 3, 3) projected on the slowest network modes about ``start`` (L, 3, 3)."""
    _, modes = network_modes(start[:, CA])
    modes = modes[:, :modes_used]
    gap = _onto(models, start.flatten(0, 1), weights).unflatten(1, (-1, 3))[:, :, CA]
    move = ((gap - start[:, CA]).flatten(1) @ modes @ modes.mT).unflatten(1, (-1, 3))
    return start + move[:, :, None]


def _superposed(training: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(M, 3L, 3) models on their mean, and the mean (3L, 3)."""
    if training.dim() != 4 or tuple(training.shape[2:]) != (3, 3) or len(training) < 2:
        raise UserError(
            f"training must be (M, L, 3, 3) with M >= 2 models, got {tuple(training.shape)}"
        )
    return superpose_on_mean(training.flatten(1, 2), weights.repeat_interleave(3))


def _onto(models: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    points = models.flatten(1, 2)
    each = weights.repeat_interleave(3).expand(points.shape[:2])
    return align(points, target.expand_as(points), each).apply(points)


def _normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(shape, generator=generator, dtype=like.dtype, device=generator.device)
    return drawn.to(like.device)
