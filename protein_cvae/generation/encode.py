"""The latents of the models of an ensemble, and how much each holds.

Latents are relative to one template, a model of the same ensemble (the central one by default).
Latents are means of the posterior.  KL terms are in nats per model, from the prior
p(z | sequence, template), of latents under noise of s Å: the information that they then hold.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from common.files.atomic import atomic_path
from common.rng import generator_for
from protein_cvae.data.embeddings import SequenceEmbedder
from protein_cvae.ensemble import Ensemble
from protein_cvae.generation.inputs import (
    check_complete,
    check_embedder,
    check_length,
    model_position,
    prepare,
)
from protein_cvae.model.kl import item_kl
from protein_cvae.model.latents import Latents
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.sampling import evaluating, posterior_blocks, standard_noise

NOISE = 0.2  # Å


@dataclass(frozen=True, eq=False)
class EncodedLatents:
    """Posteriors of M models of L residues.

    Attributes:
        name: of the ensemble.
        sequence: L letters.
        residues: L labels, e.g. "A GLY 15".
        model_numbers: (M,) int64, as the file numbers them.
        template_model: number of the template.
        noise: s, Å, that the KL terms are of.
        z_global: (M, G) float32: motion along the G softest modes of the template, in standard
            deviations of its elastic network.
        z_local: (M, L, 6) float32: shift, what remains of the displacement of CA from the template
            in the frame of the template's residue, Å; turn, the rotation of the residue there,
            axis-angle in radians.
        kl_global, kl_shift, kl_turn: (M,) float32 nats.
    """

    name: str
    sequence: str
    residues: tuple[str, ...]
    model_numbers: np.ndarray
    template_model: int
    noise: float
    z_global: np.ndarray
    z_local: np.ndarray
    kl_global: np.ndarray
    kl_shift: np.ndarray
    kl_turn: np.ndarray

    def save(self, path: str | Path) -> Path:
        """Write every attribute to an .npz file, which ``np.load`` reads without pickle."""
        path = Path(path)
        arrays = {f.name: np.array(getattr(self, f.name)) for f in dataclasses.fields(self)}
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        return path


def check_encoding(ensemble: Ensemble, template: int | None) -> None:
    """Refuse an ensemble that cannot be encoded against this template.

    Raises:
        ValueError: naming file, model and residue.
    """
    check_length(ensemble)
    if template is not None:
        model_position(ensemble, template, "template")
    check_complete(ensemble, range(ensemble.num_models))


def encode_models(
    network: ProteinCVAE,
    ensemble: Ensemble,
    template: int | None = None,
    embedder: SequenceEmbedder | None = None,
    noise: float = NOISE,
) -> EncodedLatents:
    """Encode every model of an ensemble.

    Args:
        network: trained.
        ensemble: one model or more.
        template: number of the model that is the template; None for the central one.
        embedder: as in training.
        noise: s of the KL terms, Å.

    Raises:
        ValueError: see :func:`check_encoding` and
            :func:`~protein_cvae.generation.inputs.check_embedder`.
    """
    check_encoding(ensemble, template)
    check_embedder(network, embedder)
    prepared = prepare(ensemble, embedder)
    position = prepared.central if template is None else ensemble.model_numbers.index(template)
    models = range(ensemble.num_models)
    with evaluating(network):
        z, kl = [], []
        generator = generator_for(0)
        for posterior, condition in posterior_blocks(network, prepared, models, position):
            z.append(network.posterior_mean(condition, posterior))
            noisy = replace(posterior, level=torch.full_like(posterior.level, noise))
            normal = standard_noise(network, ensemble.length, len(noisy.level), generator)
            drawn = network.sample_posterior(condition, noisy, normal)
            each = item_kl(network, noisy, condition, drawn)
            kl.append(torch.stack([each.z_global, each.shift, each.turn]))
    means = Latents.cat(z)
    arrays = (means.z_global, means.z_local, *torch.cat(kl, dim=1))
    return EncodedLatents(
        ensemble.name,
        ensemble.sequence,
        tuple(ensemble.label(i) for i in range(ensemble.length)),
        np.array(ensemble.model_numbers, dtype=np.int64),
        ensemble.model_numbers[position],
        noise,
        *(array.cpu().numpy().astype(np.float32) for array in arrays),
    )


def encode_against(
    network: ProteinCVAE,
    ensemble: Ensemble,
    template: Ensemble,
    embedder: SequenceEmbedder | None = None,
    noise: float = NOISE,
) -> EncodedLatents:
    """Encode every model of an ensemble, relative to a structure that is none of its models.

    Args:
        network: trained.
        ensemble: one model or more.
        template: one model of the same residues.
        embedder: as in training.
        noise: s of the KL terms, Å.

    Returns:
        The latents; ``template_model`` is a number that none of the models has.
    """
    number = min(ensemble.model_numbers) - 1
    joined_models = dataclasses.replace(
        ensemble,
        coordinates=torch.cat([template.coordinates, ensemble.coordinates]),
        mask=torch.cat([template.mask, ensemble.mask]),
        model_numbers=(number, *ensemble.model_numbers),
        side_chains=None,
    )
    found = encode_models(network, joined_models, number, embedder, noise)
    models = {
        name: getattr(found, name)[1:]
        for name in ("model_numbers", "z_global", "z_local", "kl_global", "kl_shift", "kl_turn")
    }
    return dataclasses.replace(found, **models)
