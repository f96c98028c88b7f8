"""Kullback-Leibler terms of a batch: every latent from its prior, and the guard against collapse.

All terms are in nats.  A batch reports nats per residue for both latents, so that their weights
mean the same: sums over dimensions and residues, divided by the number of residues.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from protein_cvae.model.latents import Latents
from protein_cvae.model.losses import LossWeights, batch_mean
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.states import Condition, Posterior


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


@dataclass(frozen=True)
class KLSettings:
    """The guard against posterior collapse.

    Attributes:
        cycles: cycles of the weight (Fu et al. 2019).
        ramp: fraction of a cycle spent rising.
        free_bits: nats of each dimension of z_global and of the detail that cost nothing.
    """

    cycles: int = 4
    ramp: float = 0.5
    free_bits: float = 0.02


@dataclass(frozen=True)
class KLTerms:
    """Nats per residue: of z_global and of the parts of z_local, then what else is trained on.

    ``sequence`` is the KL of the separate design's own latent
    (else 0), ``free_...`` are with free bits.
    """

    z_global: Tensor
    detail: Tensor
    shift: Tensor
    turn: Tensor
    sequence: Tensor
    free_global: Tensor
    free_detail: Tensor

    def penalty(self, weights: LossWeights, factor: float = 1.0) -> Tensor:
        """What is trained on.

        ``factor`` is the cycle's.  Shift and turn have it not: their posterior means are data,
        which cannot collapse, and while z_global is free it pays to explain them.
        """
        annealed = weights.kl_global * self.free_global
        annealed = annealed + weights.kl_local * (self.free_detail + self.sequence)
        return factor * annealed + weights.kl_local * (self.shift + self.turn)


def kl_terms(
    network: ProteinCVAE,
    posterior: Posterior,
    condition: Condition,
    z: Latents,
    weight: Tensor,
    floor: float = 0.0,
) -> KLTerms:
    """KL of each latent in nats per residue; the global latent's is spread over residues.

    Means are over items for z_global, shift and turn, and over all residues for detail and
    sequence, each with the ``weight`` (B,) of its item: one of weight 0 fills a batch up and does
    not count.

    The local priors are given z_global and the shift: their terms are those of the sample ``z``.
    ``floor`` is :attr:`KLSettings.free_bits`, which only the terms with free bits depend on.
    """
    count = condition.mask.sum(1).clamp_min(1)
    of_residue = weight[:, None].expand_as(condition.mask)[condition.mask]  # (N,)
    prior = network.prior_local(condition, z.z_global, z.shift)
    prior_shift = network.prior_shift(condition, z.z_global)
    on_global = posterior.z_global.kl(network.prior_global(condition))  # (B, G)
    on_detail = posterior.detail.kl(prior.detail)[condition.mask]  # (N, D)
    on_turn = posterior.turn.kl(prior.turn).sum(-1)
    on_sequence = on_detail.new_zeros(())
    prior_sequence = network.prior_sequence(condition)
    if posterior.sequence is not None and prior_sequence is not None:
        each = posterior.sequence.kl(prior_sequence)[condition.mask]
        on_sequence = batch_mean(each.sum(1), of_residue)
    seen = condition.mask & condition.templated[:, None]
    shifts = posterior.shift, posterior.shift_log_var, prior_shift
    on_shift = condition.network.kl(*shifts)
    length = batch_mean(count.float(), weight)
    return KLTerms(
        z_global=batch_mean(on_global.sum(1) / count, weight),
        detail=batch_mean(on_detail.sum(1), of_residue),
        shift=batch_mean(on_shift / count, weight),
        turn=batch_mean((on_turn * seen).sum(1) / count, weight),
        sequence=on_sequence,
        free_global=free_bits(on_global, floor, weight).sum() / length,
        free_detail=free_bits(on_detail, floor, of_residue).sum(),
    )


def kl_values(kl: KLTerms) -> dict[str, Tensor]:
    """What is logged of them, nats per residue."""
    return {
        "kl_global": kl.z_global,
        "kl_shift": kl.shift,
        "kl_turn": kl.turn,
        "kl_detail": kl.detail,
    }
