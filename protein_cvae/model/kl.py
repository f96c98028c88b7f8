"""Kullback-Leibler terms: one reduction for every latent, and free bits.

All terms are in nats.  A batch reports nats per residue for both latents, so that their weights
mean the same: sums over dimensions and residues, divided by the number of residues.
"""

from __future__ import annotations

from torch import Tensor


def gaussian_kl(mean: Tensor, log_var: Tensor, prior_mean: Tensor, prior_log_var: Tensor) -> Tensor:
    """KL(N(mean, e^log_var) ‖ N(prior_mean, e^prior_log_var)) of each dimension, nats.

    Kingma and Welling (2014), appendix B, with a learned prior.
    """
    gap = (mean - prior_mean).square() * (-prior_log_var).exp()
    ratio = log_var - prior_log_var
    return 0.5 * (ratio.exp() + gap - 1 - ratio)


def free_bits(kl: Tensor, floor: float, weight: Tensor | None = None) -> Tensor:
    """Raise each dimension to ``floor`` nats, so that it is not pressed below (Kingma et al. 2016).

    Args:
        kl: (S, D) nats, S samples (conformers or residues) of D dimensions; the mean over samples
            of a dimension is what is compared.
        floor: nats per dimension; 0 leaves the terms alone.
        weight: (S,) of each sample; equal if None.

    Returns:
        (D,) nats, mean over samples.
    """
    if weight is None:
        return kl.mean(0).clamp_min(floor)
    share = weight / weight.sum().clamp_min(1e-12)
    return (share[:, None] * kl).sum(0).clamp_min(floor)
