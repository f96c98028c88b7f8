"""What is scored during training: a batch from draws, and sums over all batches.

The sums are those of all ranks, so that a score does not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics import Metric

from common.align import aligned_rmsd
from protein_cvae.data.batch import ProteinBatch
from protein_cvae.evaluation.metrics import active_dimensions
from protein_cvae.geometry.constants import CA
from protein_cvae.model.kl import kl_terms, kl_values
from protein_cvae.model.latents import Latents
from protein_cvae.model.losses import (
    LossWeights,
    batch_mean,
    fit_terms,
    geometry_terms,
    means,
    weighted,
)
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.rate import RateSettings


@dataclass(frozen=True, eq=False)
class ValidationScores:
    """Scores of one batch.

    Attributes:
        values: by name, means over the items by their weights.
        latent_means: posterior means of items of positive weight: ``global`` (B, G), and
            ``local`` (N, 6) over their residues.
    """

    values: dict[str, Tensor]
    latent_means: dict[str, Tensor]


def validation_scores(
    network: ProteinCVAE,
    batch: ProteinBatch,
    weights: LossWeights,
    free_bits: float,
    rate: RateSettings,
    noise: Latents,
    prior_noise: Latents,
) -> ValidationScores:
    """Score a batch decoded from draws of the posterior, and draws from the prior.

    Args:
        network: in eval mode.
        batch: held-out conformers.
        weights: of the losses, at their final values.
        free_bits: see :class:`~protein_cvae.model.kl.KLSettings`.
        rate: whose ``judged`` is the noise of the latents.
        noise: of the draws from the posterior.
        prior_noise: of those from the prior.
    """
    level = torch.full_like(noise.level, rate.judged)
    decoded, posterior, condition, z = network.reconstruct(batch, level, noise)
    mask = condition.mask
    fit = fit_terms(decoded, batch, mask, weights.tail)
    shape = geometry_terms(decoded, batch, mask)
    kl = kl_terms(network, posterior, condition, z, batch.weight, free_bits)
    loss = batch_mean(weighted(weights, fit, 1.0) + weighted(weights, shape, 1.0), batch.weight)
    coil = network.coil.nll(batch, condition)
    loss = loss + kl.penalty(weights) + weights.coil * batch_mean(coil, batch.weight)
    drawn = network.sample_prior(batch, condition, prior_noise)
    free = geometry_terms(network.decode(batch, condition, drawn), batch, mask)
    count = mask.sum(1).clamp_min(1)
    right = ((decoded.logits.argmax(-1) == batch.aatype) & mask).sum(1) / count
    ca, ca_true = decoded.coordinates[:, :, CA], batch.coordinates[:, :, CA].to(level)
    core = torch.where((batch.core & mask).any(1, keepdim=True), batch.core & mask, mask)
    each = fit | shape | {f"prior_{k}": v for k, v in free.items()}
    each |= {
        "rmsd": aligned_rmsd(ca, ca_true, mask),
        "rmsd_core": aligned_rmsd(ca, ca_true, core),
        "sequence_accuracy": right,
        "coil": coil,
    }
    counted = batch.weight > 0
    means_of = network.posterior_mean(condition, posterior)
    return ValidationScores(
        means(each, batch.weight) | {"loss": loss} | kl_values(kl),
        {
            "global": means_of.z_global[counted],
            "local": means_of.z_local[mask & counted[:, None]],
        },
    )


class WeightedMeans:
    """Weighted means of named values over batches and ranks.

    Args:
        device: that of the values.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._metrics: dict[str, _WeightedMean] = {}

    def update(self, values: Mapping[str, Tensor], weight: Tensor) -> None:
        """Add one batch; its values count by ``weight``."""
        for name, value in values.items():
            if name not in self._metrics:
                self._metrics[name] = _WeightedMean(self.device)
            self._metrics[name].update(value, weight)

    def compute(self) -> dict[str, Tensor]:
        """The means, over all ranks; every rank calls this."""
        return {name: metric.compute() for name, metric in self._metrics.items()}


class _WeightedMean(Metric):
    """Sums of values and weights over ranks.  A value that is not a number is shown, not left out:
    torchmetrics' own mean then forgets the weights (1.9.0, ``nan_strategy="disable"``)."""

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        for name in ("total", "weight"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.to(device)

    def update(self, value: Tensor, weight: Tensor) -> None:
        self.total += value.double() * weight
        self.weight += weight

    def compute(self) -> Tensor:
        return (self.total / self.weight).float()


class ActiveUnits(Metric):
    """Number of dimensions whose posterior means vary, from moments summed over ranks.

    Args:
        dimensions: D.
        device: that of the rows.
    """

    full_state_update = False
    count: Tensor
    total: Tensor
    square: Tensor

    def __init__(self, dimensions: int, device: torch.device) -> None:
        super().__init__()
        zeros = torch.zeros(dimensions, dtype=torch.float64)
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", zeros, dist_reduce_fx="sum")
        self.add_state("square", zeros.clone(), dist_reduce_fx="sum")
        self.to(device)

    def update(self, rows: Tensor) -> None:
        """Add rows (n, D)."""
        rows = rows.double()
        self.count += len(rows)
        self.total += rows.sum(0)
        self.square += rows.square().sum(0)

    def compute(self) -> Tensor:
        """Their number, over all ranks; NaN of fewer than two rows."""
        if int(self.count) < 2:
            return self.count.new_full((), torch.nan).float()
        return active_dimensions(int(self.count), self.total, self.square).sum().float()
