"""The panel that the field reports of an ensemble, by its own definitions.

They are those of AlphaFlow's analysis (Jing et al. 2024, arXiv:2402.04845, section 4 and
``scripts/analyze_ensembles.py`` of its repository), which ConfDiff (Wang et al. 2024,
arXiv:2403.14088) and BBFlow (Wolf et al. 2025, arXiv:2503.05738) repeat.  CA coordinates, Å.  Every
model is superposed on one structure, the template, over all residues, and stays there:

* pairwise RMSD: mean over pairs of different models, without a superposition of their own;
* RMSF: about the mean of the models; its Pearson correlation with the real profile;
* RMWD: 2-Wasserstein distance of Gaussians fitted to each atom's positions, root mean square over
  atoms: W₂² = |m₁ − m₂|² + tr(S₁ + S₂ − 2 (S₁^½ S₂ S₁^½)^½), its translation and variance parts;
* PCA W₂: 2-Wasserstein distance in two principal components, divided by √(number of residues);
  axes of the reference, or joint ones of both ensembles pooled, each with half of the weight;
* PC cosine: of the first components of both, absolute;
* contacts: CA nearer than 8 Å.  Weak ones are contacts of the template that hold in less than 90 %
  of the models, transient ones are none of the template that hold in more than 10 %.  Agreement is
  the Jaccard index of the sets of both ensembles; NaN where neither has any.

Differences: pairs of a model with itself do not count; nothing is drawn at random, transport is
exact for unequal numbers of models; the template is the central given model.  AlphaFlow's exposed
residues and their mutual information are of the solvent-accessible surface of side chains, which
N, CA and C do not have: they are not computed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from torch import Tensor

from common.align import align
from common.errors import UserError
from protein_cvae.evaluation.metrics import correlation, wasserstein
from protein_cvae.geometry.superposition import chosen_residues

CONTACT_DISTANCE = 8.0  # Å, CA-CA
WEAK, TRANSIENT = 0.9, 0.1  # shares of models
COMPONENTS = 2

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PanelScores:
    """Generated against real; see the module's text.  Profiles are (L,) in Å."""

    pairwise_rmsd: float
    pairwise_rmsd_real: float
    rmsf_r: float
    rmwd: float
    rmwd_translation: float
    rmwd_variance: float
    pca_w2: float
    joint_w2: float
    pc_cosine: float
    weak_contacts: float
    transient_contacts: float
    rmsf: tuple[float, ...]
    rmsf_real: tuple[float, ...]


def panel(
    generated: Tensor, judged: Tensor, template: Tensor, reference: Tensor | None = None
) -> PanelScores:
    """The panel of (K, L, 3) generated CA coordinates.

    Args:
        generated: K >= 2 models.
        judged: (J, L, 3) real models: RMWD and both W₂ are to them.
        template: (L, 3) what all models are superposed on, and whose contacts are weak or not.
        reference: (R, L, 3) real models, R >= 2, of the pairwise RMSD, the RMSF, the reference's
            axes and the contacts; ``judged`` if omitted.

    Raises:
        ValueError: if a shape does not fit, or there are fewer than two generated or reference
            models.
    """
    base = judged if reference is None else reference
    if min(len(generated), len(base)) < 2:
        raise UserError(
            f"panel: expected at least two generated and real models, got {len(generated)} and "
            f"{len(base)}"
        )
    made, held, real = (
        _posed(name, models, template)
        for name, models in (("generated", generated), ("judged", judged), ("reference", base))
    )
    profile, real_profile = _rmsf(made), _rmsf(real)
    translation, variance = gaussian_distances(made, held)
    axes, own_axes = principal_axes(real), principal_axes(made)
    halves = np.repeat([0.5 / len(made), 0.5 / len(held)], [len(made), len(held)])
    joint = principal_axes(np.concatenate((made, held)), halves)
    near = _contact_shares(template[None].double().numpy(force=True)) > 0
    shares, real_shares = _contact_shares(made), _contact_shares(real)
    return PanelScores(
        pairwise_rmsd=_pairwise(made),
        pairwise_rmsd_real=_pairwise(real),
        rmsf_r=correlation(torch.from_numpy(profile), torch.from_numpy(real_profile)),
        rmwd=float(np.sqrt((translation**2 + variance**2).mean())),
        rmwd_translation=float(np.sqrt((translation**2).mean())),
        rmwd_variance=float(np.sqrt((variance**2).mean())),
        pca_w2=_projected_distance(made, held, axes),
        joint_w2=_projected_distance(made, held, joint),
        pc_cosine=float(abs(axes[0] @ own_axes[0])),
        weak_contacts=jaccard(near & (shares < WEAK), near & (real_shares < WEAK)),
        transient_contacts=jaccard(~near & (shares > TRANSIENT), ~near & (real_shares > TRANSIENT)),
        rmsf=tuple(profile.tolist()),
        rmsf_real=tuple(real_profile.tolist()),
    )


def gaussian_distances(first: Array, second: Array) -> tuple[Array, Array]:
    """(L,) translation and variance parts of W₂ of Gaussians fitted to each atom, Å.

    Args:
        first: (K, L, 3), already in one pose with
        second: (M, L, 3).
    """
    (mean, spread), (other_mean, other_spread) = (_moments(x) for x in (first, second))
    root = _root(spread)
    cross = np.linalg.eigvalsh(root @ other_spread @ root).clip(0)  # (L, 3)
    traces = np.trace(spread + other_spread, axis1=1, axis2=2)
    variance = np.sqrt((traces - 2 * np.sqrt(cross).sum(-1)).clip(0))
    return np.linalg.norm(mean - other_mean, axis=-1), variance


def principal_axes(models: Array, weights: Array | None = None) -> Array:
    """(C, 3L) first principal axes of (M, L, 3) in one pose, at most two, fewer of few models.

    Args:
        models: M >= 2.
        weights: (M,) of the models, with sum 1; equal if omitted.
    """
    share = np.full(len(models), 1 / len(models)) if weights is None else weights
    flat = models.reshape(len(models), -1)
    gaps = np.sqrt(share)[:, None] * (flat - share @ flat)
    _, _, axes = np.linalg.svd(gaps, full_matrices=False)
    return axes[: min(COMPONENTS, len(models) - 1)]


def jaccard(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Intersection over union of two sets; NaN if both are empty."""
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else float("nan")


def _posed(name: str, models: Tensor, template: Tensor) -> Array:
    models = chosen_residues(name, models, None).double()
    if tuple(template.shape) != tuple(models.shape[1:]):
        raise UserError(
            f"template must be {tuple(models.shape[1:])} as {name} has it, got "
            f"{tuple(template.shape)}"
        )
    target = template.to(models).expand_as(models)
    moved: Array = align(models, target).apply(models).numpy(force=True)
    return moved


def _pairwise(models: Array) -> float:
    return float(pdist(models.reshape(len(models), -1)).mean() / models.shape[1] ** 0.5)


def _rmsf(models: Array) -> Array:
    found: Array = np.sqrt(((models - models.mean(0)) ** 2).sum(-1).mean(0))
    return found


def _contact_shares(models: Array) -> Array:
    """Share of the models in which each pair of residues is in contact, pairs as of pdist."""
    count = np.zeros(models.shape[1] * (models.shape[1] - 1) // 2)
    for model in models:
        count += pdist(model) < CONTACT_DISTANCE
    return count / len(models)


def _moments(models: Array) -> tuple[Array, Array]:
    """(L, 3) means and (L, 3, 3) covariances over models."""
    mean = models.mean(0)
    gaps = models - mean
    return mean, np.einsum("klx,kly->lxy", gaps, gaps) / len(models)


def _root(matrices: Array) -> Array:
    """Symmetric square roots of (L, 3, 3)."""
    values, vectors = np.linalg.eigh(matrices)
    found: Array = (vectors * np.sqrt(values.clip(0))[:, None]) @ vectors.swapaxes(1, 2)
    return found


def _projected_distance(first: Array, second: Array, axes: Array) -> float:
    size = first.shape[1] ** 0.5
    points = (models.reshape(len(models), -1) @ axes.T / size for models in (first, second))
    return wasserstein(*points)
