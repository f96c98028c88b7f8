"""How good a trained model is on one protein: every number of the tables, real beside generated.

Given and judged models and the template are those of an
:class:`~protein_cvae.data.cases.EvaluationCase`.  Everything generated goes through the
finisher.  All RMSDs in Å after superposition over the residues that are compared.

* Reconstruction: judged models from draws of the posterior at the noise of the settings, with the
  template and without.
* Conformers: ``resample``, drawn over the posterior means of the given models; ``prior``, from the
  template and the sequence alone; and ``real``, the given models themselves.  All three are
  compared with the judged models; spread ratio, RMSF profile and principal components are relative
  to all real models of the protein.  Geometry is :func:`~protein_cvae.geometry.validity.validity`.
* Sequence: residues named right with the modality (reconstruction) and with it withheld
  (recovery), beside always naming the commonest residue of the training proteins.
* Rates: see :mod:`protein_cvae.evaluation.rates`.
* Latents: KL in nats per residue at the noise of the settings; active units over the models of
  this protein, z_local's variance averaged over residues.  Unlike those pooled over proteins they
  do not count what only tells proteins apart.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.rng import generator_for
from protein_cvae.data.batch import collate
from protein_cvae.data.cases import EvaluationCase
from protein_cvae.evaluation.metrics import ACTIVE_VARIANCE, sequence_recovery
from protein_cvae.evaluation.rates import rate_points
from protein_cvae.evaluation.scores import (
    CaseResult,
    LatentScores,
    Moments,
    SequenceScores,
    reconstruction,
    score_conformers,
)
from protein_cvae.evaluation.settings import EvaluationSettings
from protein_cvae.model.kl import kl_terms, kl_values
from protein_cvae.model.latents import Latents
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.sampling import (
    Finisher,
    decode,
    evaluating,
    posterior_means,
    resample,
    sample_prior,
)

MODES = ("resample", "prior")


def evaluate_case(
    network: ProteinCVAE,
    case: EvaluationCase,
    settings: EvaluationSettings,
    finish: Finisher | None,
) -> tuple[CaseResult, dict[str, Tensor]]:
    """Score one protein.

    Args:
        network: trained; put in eval mode for the time, without gradients.
        case: the protein.
        settings: of the draws.
        finish: makes the geometry valid; None judges the decoder's own output.

    Returns:
        The scores, and the conformers (K, L, 3, 3) they are of, on the CPU, by method.
    """
    with evaluating(network):
        judged = _reconstruct(network, case, finish, settings)
        free = _reconstruct(network, case, finish, settings, template=False)
        hidden = _reconstruct(network, case, None, settings, sequence=False)
        conformers, seconds = generate(network, case, settings, finish)
        latents = _latents(network, case, judged.kl, settings.chunk)
        rates = rate_points(network, case, settings) if settings.rates else []
    conformers = {"real": case.coordinates[list(case.given)], **conformers}
    truth = case.prepared.ensemble.aatype.expand(len(case.judged), -1)
    known = torch.ones_like(truth, dtype=torch.bool)
    prior = case.training_aatype if len(case.training_aatype) else None
    named, unaided = (
        sequence_recovery(found.predicted, truth, known, prior) for found in (judged, hidden)
    )
    result = CaseResult(
        name=case.name,
        group=case.group,
        head=case.head,
        reconstruction=reconstruction(judged.coordinates, case),
        reconstruction_free=reconstruction(free.coordinates, case),
        conformers={
            method: score_conformers(made, case, settings.threshold, seconds.get(method, math.nan))
            for method, made in conformers.items()
        },
        sequence=SequenceScores(named.recovery, unaided.recovery, named.commonest),
        latents=latents,
        rates=tuple(rates),
    )
    return result, conformers


def case_key(name: str) -> int:
    """Key of a protein's own stream of random numbers."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "little")


def generate(
    network: ProteinCVAE,
    case: EvaluationCase,
    settings: EvaluationSettings,
    finish: Finisher | None,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Conformers (K, L, 3, 3) of both modes on the CPU, and seconds per conformer.

    The draws depend on the seed and the protein's name alone.  Encoding the given models is not
    counted as time: it is done once however many conformers are wanted.
    """
    item = case.item().to(network.device)
    means = _means(network, case, case.given, settings.chunk)
    made, seconds = {}, {}
    for number, mode in enumerate(MODES):
        generator = generator_for(settings.seed, case_key(case.name), number)
        start = _clock(network.device)
        if mode == "resample":
            latents = resample(
                means, settings.count, generator, settings.bandwidth, settings.temperature
            )
        else:
            latents = sample_prior(network, item, settings.count, generator, settings.temperature)
        made[mode] = decode(network, item, latents, finish, settings.chunk)
        seconds[mode] = (_clock(network.device) - start) / settings.count
        made[mode] = made[mode].float().cpu()
    return made, seconds


@dataclass(frozen=True, eq=False)
class _Decoded:
    """Judged models decoded: (J, L, 3, 3) and (J, L) residue types on the CPU; KL by latent."""

    coordinates: Tensor
    predicted: Tensor
    kl: dict[str, float]


def _reconstruct(
    network: ProteinCVAE,
    case: EvaluationCase,
    finish: Finisher | None,
    settings: EvaluationSettings,
    *,
    template: bool = True,
    sequence: bool = True,
) -> _Decoded:
    coordinates, predicted, kl = [], [], dict[str, float]()
    for part in _parts(case.judged, settings.chunk):
        items = [case.item(model, template=template, sequence=sequence) for model in part]
        batch = collate(items).to(network.device)
        noise = network.noise(batch, settings.seed, 0, len(MODES))
        level = torch.full_like(noise.level, settings.noise)
        decoded, posterior, condition, z = network.reconstruct(batch, level, noise)
        x = decoded.coordinates
        x = x if finish is None else finish(x, batch, condition.mask)
        coordinates.append(x.float().cpu())
        predicted.append(decoded.logits.argmax(-1).cpu())
        terms = kl_terms(network, posterior, condition, z, batch.weight)
        share = len(part) / len(case.judged)
        for name, value in kl_values(terms).items():
            latent = name.removeprefix("kl_")
            kl[latent] = kl.get(latent, 0.0) + share * float(value)
    return _Decoded(torch.cat(coordinates), torch.cat(predicted), kl)


def _means(
    network: ProteinCVAE, case: EvaluationCase, models: Sequence[int], chunk: int
) -> Latents:
    """Posterior means of models against the template, in batches as in training."""
    central = case.prepared.central
    return posterior_means(network, case.prepared, models, central, chunk, condition_once=False)


def _latents(
    network: ProteinCVAE, case: EvaluationCase, kl: dict[str, float], chunk: int
) -> LatentScores:
    z = _means(network, case, (*case.given, *case.judged), chunk)
    local_variance = z.z_local.var(0).mean(0)  # (6,), over models, then residues
    return LatentScores(
        kl,
        active_global=Moments.of(z.z_global).active(),
        active_local=int((local_variance > ACTIVE_VARIANCE).sum()),
        d_global=z.z_global.shape[-1],
        d_local=z.z_local.shape[-1],
        global_moments=Moments.of(z.z_global),
        local_moments=Moments.of(z.z_local.flatten(0, 1)),
        map=torch.cat([z.z_global, z.z_local.mean(1)], 1).float().cpu(),
    )


def _parts(models: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(models), size):
        yield models[start : start + size]


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
