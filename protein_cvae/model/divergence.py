"""The divergences of a batch: every latent from its prior, in nats per residue."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from protein_cvae.model.kl import free_bits, gaussian_kl
from protein_cvae.model.latents import Latents
from protein_cvae.model.losses import LossWeights, batch_mean
from protein_cvae.model.network import Condition, Posterior, ProteinCVAE


@dataclass(frozen=True)
class KLSettings:
    """The guard against posterior collapse.

    Attributes:
        cycles: cycles of the weight (Fu et al. 2019).
        ramp: fraction of a cycle spent rising.
        free_bits: nats that each dimension of z_global and of the detail may keep for nothing.
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
    model: ProteinCVAE,
    posterior: Posterior,
    condition: Condition,
    z: Latents,
    floor: float,
    weight: Tensor,
) -> KLTerms:
    """KL of each latent in nats per residue; the global latent's is spread over residues.

    Means are over items for z_global, shift and turn, and over all residues for detail and
    sequence, each with the ``weight`` (B,) of its item: one of weight 0 fills a batch up and counts
    for nothing.

    The local priors are given z_global and the shift: their terms are those of the sample ``z``.
    ``floor`` is :attr:`KLSettings.free_bits`.
    """
    count = condition.mask.sum(1).clamp_min(1)
    of_residue = weight[:, None].expand_as(condition.mask)[condition.mask]  # (N,)
    prior_global = model.prior_global(condition)
    prior = model.prior_local(condition, z.z_global, z.shift)
    prior_shift = model.prior_shift(condition, z.z_global)
    on_global = gaussian_kl(
        posterior.z_global.mean,
        posterior.z_global.log_var,
        prior_global.mean,
        prior_global.log_var,
    )  # (B, G)
    on_detail = gaussian_kl(
        posterior.detail.mean, posterior.detail.log_var, prior.detail.mean, prior.detail.log_var
    )[condition.mask]  # (N, D)
    on_turn = gaussian_kl(
        posterior.turn.mean, posterior.turn.log_var, prior.turn.mean, prior.turn.log_var
    ).sum(-1)
    on_sequence = on_detail.new_zeros(())
    prior_sequence = model.prior_sequence(condition)
    if posterior.sequence is not None and prior_sequence is not None:
        p, q = prior_sequence, posterior.sequence
        each = gaussian_kl(q.mean, q.log_var, p.mean, p.log_var)[condition.mask]
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
