"""Rate and distortion: how much of a held-out model passes how narrow a channel.

A judged model is coded against the central given model at a noise of s Å, and decoded from one
draw.  The rate is the KL of the latents from their prior, nats per residue; the distortion the
CA-RMSD, Å, of the core and of all residues, of the decoder's own output, without finishing.

* ``ours``: z_global and z_local at the same noise; ``z_global alone``: z_local holds nothing.
* :class:`LinearCodec`: K coefficients along fixed directions, each through the same noise, under a
  Gaussian prior, decoded by Wiener's filter: ``pca``, components of the given models about their
  mean; ``modes``, the softest modes of the template's elastic network.  The former is told the
  ensemble, the latter one structure, as ours is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.align import align, aligned_rmsd
from common.rng import combined_key, counter_normal
from protein_cvae.data.batch import collate
from protein_cvae.data.cases import EvaluationCase
from protein_cvae.evaluation.settings import EvaluationSettings
from protein_cvae.geometry.constants import CA
from protein_cvae.geometry.frames import residue_frames
from protein_cvae.geometry.superposition import superpose_on_mean
from protein_cvae.model.elastic import normal_modes
from protein_cvae.model.kl import item_kl
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.rate import CLEAN, SILENT
from protein_cvae.model.sampling import evaluating
from protein_cvae.model.scales import Scales, most_probable_amplitude

OURS, GLOBAL_ALONE = "ours", "z_global alone"
_NOISE = 7  # purpose of the random numbers


@dataclass(frozen=True)
class RatePoint:
    """Means over the judged models of one protein.

    Attributes:
        method: see the module.
        noise: s, Å.
        dimensions: numbers that pass.
        nats: per residue, of all latents; ``nats_motion`` without the turns, which CA do not show.
        ca_core, ca_all: Å; NaN where the core is too small.
    """

    method: str
    noise: float
    dimensions: int
    nats: float
    nats_motion: float
    ca_core: float
    ca_all: float


def rate_points(
    network: ProteinCVAE, case: EvaluationCase, settings: EvaluationSettings
) -> list[RatePoint]:
    """The points of a network: at each of ``settings.rates``, and z_global alone."""
    points = []
    length = case.prepared.ensemble.length
    with evaluating(network):
        for method, noise, local in (
            *((OURS, s, s) for s in settings.rates),
            (GLOBAL_ALONE, CLEAN, SILENT),
        ):
            nats, made = [], []
            for start in range(0, len(case.judged), settings.chunk):
                part = case.judged[start : start + settings.chunk]
                batch = collate([case.item(model) for model in part]).to(network.device)
                drawn = network.noise(batch, settings.seed, 0, _NOISE)
                level = drawn.level.new_tensor([noise, local]).expand(len(batch), 2)
                decoded, posterior, condition, z = network.reconstruct(batch, level, drawn)
                kl = item_kl(network, posterior, condition, z)
                nats.append(torch.stack([kl.z_global, kl.shift, kl.turn], dim=1).cpu())
                made.append(decoded.coordinates[:, :, CA].float().cpu())
            each = torch.cat(nats).mean(0) / length
            core, everything = distortion(torch.cat(made), case)
            modes = min(network.d_global, 3 * length)
            count = modes if method == GLOBAL_ALONE else 6 * length
            rate = float(each.sum()), float(each[:2].sum())
            points.append(RatePoint(method, noise, count, *rate, core, everything))
    return points


def distortion(ca: Tensor, case: EvaluationCase) -> tuple[float, float]:
    """Mean CA-RMSD, Å, of (J, L, 3) to the judged models: core (NaN if too small), all."""
    real = case.coordinates[list(case.judged)][:, :, CA]
    core = float("nan")
    if case.core is not None:
        core = float(aligned_rmsd(ca[:, case.core], real[:, case.core]).mean())
    return core, float(aligned_rmsd(ca, real).mean())


@dataclass(frozen=True, eq=False)
class LinearCodec:
    """Attributes:

    name: of the method.
    centre: (L, 3) Å, CA.
    directions: (3L, K) orthonormal.
    variance: (K,) Å² along them.
    told: the variances are those of the ensemble; else of unknown amplitude, as our prior's.
    """

    name: str
    centre: Tensor
    directions: Tensor
    variance: Tensor
    told: bool

    @staticmethod
    def pca(case: EvaluationCase, count: int) -> LinearCodec:
        """The first ``count`` components of the given models, superposed on their mean."""
        given = case.coordinates[list(case.given)][:, :, CA].double()
        moved, mean = superpose_on_mean(given)
        gap = (moved - mean).flatten(1)
        _, values, axes = torch.linalg.svd(gap, full_matrices=False)
        kept = min(count, len(given) - 1)
        variance = values[:kept].square() / (len(given) - 1)
        return LinearCodec(f"pca, {count}", mean, axes[:kept].mT, variance, told=True)

    @staticmethod
    def modes(case: EvaluationCase, count: int) -> LinearCodec:
        """The ``count`` softest modes about the central given model."""
        item = case.item()
        rotation, origin = residue_frames(item.template, item.template_mask)
        mask, place, chain = item.template_mask, item.residue_index, item.chain_index
        modes = normal_modes(rotation, origin, mask, place, chain)
        kept = min(count, modes.variance.shape[1])
        turned = rotation[0].double() @ modes.vectors[0, :, :kept].double().unflatten(0, (-1, 3))
        variance = modes.variance[0, :kept].double()
        return LinearCodec(
            f"modes, {count}", origin[0].double(), turned.flatten(0, 1), variance, told=False
        )

    def point(self, case: EvaluationCase, noise: float, seed: int) -> RatePoint:
        """Code the judged models at a noise of ``noise`` Å."""
        real = case.coordinates[list(case.judged)][:, :, CA].double()
        centre = self.centre.expand_as(real)
        b = (align(real, centre).apply(real) - centre).flatten(1) @ self.directions
        key = combined_key(seed, _NOISE, torch.arange(len(b)))
        z = b + noise * counter_normal(key, b.shape[1], torch.float64)
        quiet = torch.full_like(z, noise**2)
        prior, cost = self._prior(z, quiet)
        own = -0.5 * ((z - b).square() / quiet + (2 * math.pi * quiet).log())
        nats = (own - prior.log_density(z, quiet)).sum(1) + cost
        moved = prior.mean(z, quiet) @ self.directions.mT
        ca = centre + moved.unflatten(1, (-1, 3))
        rate = float(nats.mean()) / len(self.centre)
        core, everything = distortion(ca.float(), case)
        return RatePoint(self.name, noise, b.shape[1], rate, rate, core, everything)

    def _prior(self, z: Tensor, noise: Tensor) -> tuple[Scales, Tensor]:
        """The prior, of one scale, and (J,) nats of its amplitude, as in our own channel."""
        variance = self.variance.expand_as(z)[..., None]
        prior = Scales(variance, torch.zeros_like(variance))
        if self.told:
            return prior, torch.zeros_like(z[:, 0])
        a = most_probable_amplitude(z, prior, noise)
        return prior.at(a), 0.5 * a.square()


def linear_points(
    case: EvaluationCase, noises: Iterable[float], counts: Sequence[int], seed: int
) -> list[RatePoint]:
    """Points of both linear codecs with each number of dimensions."""
    points = []
    for count in counts:
        for codec in (LinearCodec.pca(case, count), LinearCodec.modes(case, count)):
            points += [codec.point(case, noise, seed) for noise in noises]
    return points
