"""Kullback-Leibler terms of a batch: every latent from its prior.

All terms are in nats per residue of their item, and means over items: they add up over the
processes of a training as they do over one batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from protein_cvae.model.channel import TURN_NOISE
from protein_cvae.model.latents import Gaussian, Latents
from protein_cvae.model.losses import LossWeights, batch_mean
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.states import Condition, Posterior


@dataclass(frozen=True)
class KLSettings:
    """The guard of the free z_global, that of conformers without template, against collapse.

    Attributes:
        cycles: cycles of the weight (Fu et al. 2019).
        ramp: fraction of a cycle spent rising.
        free_bits: nats of each dimension that cost nothing (Kingma et al. 2016).
    """

    cycles: int = 4
    ramp: float = 0.5
    free_bits: float = 0.02


@dataclass(frozen=True)
class ItemKL:
    """Nats (B,) of each item.

    Attributes:
        z_global: of the motion along the softest modes and its amplitude.
        shift, turn: of z_local.
        free: of z_global where there is no template.
        sequence: of the separate design's own latent, else 0.
        floored: ``free`` with free bits.
    """

    z_global: Tensor
    shift: Tensor
    turn: Tensor
    free: Tensor
    sequence: Tensor
    floored: Tensor


def item_kl(
    network: ProteinCVAE,
    posterior: Posterior,
    condition: Condition,
    z: Latents,
    floor: float = 0.0,
) -> ItemKL:
    """KL of each latent of each item; see :mod:`protein_cvae.model.channel`.

    That of the shifts is taken at the draw ``z``.  The prior of the turn is given the shift itself.
    """
    templated = condition.templated.to(posterior.shift)
    on_global, on_shift = network.channel.kl(condition.modes, posterior.shift, z)
    prior = network.prior_turn(condition, posterior.shift)
    noise = 2 * (TURN_NOISE * posterior.level[:, 1, None, None]).log()
    total = torch.logaddexp(prior.log_var, noise)
    seen = condition.modes.mask
    on_turn = Gaussian(posterior.turn, noise.expand_as(total)).kl(Gaussian(prior.mean, total))
    on_free = posterior.free.kl(network.prior_free(condition))  # (B, G)
    on_sequence = torch.zeros_like(on_global)
    prior_sequence = network.prior_sequence(condition)
    if posterior.sequence is not None and prior_sequence is not None:
        each = posterior.sequence.kl(prior_sequence).sum(-1)
        on_sequence = (each * condition.mask).sum(1)
    return ItemKL(
        z_global=templated * on_global,
        shift=templated * on_shift,
        turn=(on_turn.sum(-1) * seen).sum(1),
        free=(1 - templated) * on_free.sum(1),
        sequence=on_sequence,
        floored=(1 - templated) * on_free.clamp_min(floor).sum(1),
    )


@dataclass(frozen=True)
class KLTerms:
    """Nats per residue, means over items; see :class:`ItemKL`."""

    z_global: Tensor
    shift: Tensor
    turn: Tensor
    free: Tensor
    sequence: Tensor
    floored: Tensor

    def penalty(self, weights: LossWeights, factor: float = 1.0) -> Tensor:
        """What is trained on; ``factor`` is the cycle's, of the free z_global and the sequence.

        The rest cannot collapse: what its posterior holds is set by its level.
        """
        coded = weights.kl_global * self.z_global + weights.kl_local * (self.shift + self.turn)
        free = weights.kl_global * self.floored + weights.kl_local * self.sequence
        return coded + factor * free


def kl_terms(
    network: ProteinCVAE,
    posterior: Posterior,
    condition: Condition,
    z: Latents,
    weight: Tensor,
    floor: float = 0.0,
) -> KLTerms:
    """Means over the items by their ``weight`` (B,): one of weight 0 fills a batch up."""
    count = condition.mask.sum(1).clamp_min(1)
    each = item_kl(network, posterior, condition, z, floor)
    return KLTerms(**{name: batch_mean(nats / count, weight) for name, nats in vars(each).items()})


def kl_values(kl: KLTerms) -> dict[str, Tensor]:
    """What is logged of them, nats per residue."""
    return {
        "kl_global": kl.z_global,
        "kl_shift": kl.shift,
        "kl_turn": kl.turn,
        "kl_free": kl.free,
    }
