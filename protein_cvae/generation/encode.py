"""The latents of the models of an ensemble, and how much each holds.

Latents are relative to one template, a model of the same ensemble (the central one by default).
KL terms are in nats, from the prior p(z | sequence, template): of z_global per model; of the shift
per model, since its prior couples all residues and does not divide among them; of turn and detail
per model and residue, summed over their dimensions.  Where a prior is given another latent, that
is at its posterior mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from common.files.atomic import atomic_path
from protein_cvae.data.embeddings import SequenceEmbedder
from protein_cvae.ensemble import Ensemble
from protein_cvae.generation.inputs import (
    check_complete,
    check_embedder,
    check_length,
    model_position,
    prepare,
)
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.sampling import evaluating, posterior_blocks
from protein_cvae.model.states import Condition, Posterior

_Fields = TypeVar("_Fields")


@dataclass(frozen=True, eq=False)
class EncodedLatents:
    """Posteriors of M models of L residues.

    Attributes:
        name: of the ensemble.
        sequence: L letters.
        residues: L labels, e.g. "A GLY 15".
        model_numbers: (M,) int64, as the file numbers them.
        template_model: number of the template.
        z_global, z_global_sd: (M, G) float32 mean and standard deviation.
        z_local, z_local_sd: (M, L, 6 + D) float32: shift, the displacement of CA from the template
            in the frame of the template's residue, Å; turn, the rotation of the residue there,
            axis-angle in radians; detail.
        kl_global, kl_shift: (M,) float32 nats.
        kl_turn, kl_detail: (M, L) float32 nats.
    """

    name: str
    sequence: str
    residues: tuple[str, ...]
    model_numbers: np.ndarray
    template_model: int
    z_global: np.ndarray
    z_global_sd: np.ndarray
    z_local: np.ndarray
    z_local_sd: np.ndarray
    kl_global: np.ndarray
    kl_shift: np.ndarray
    kl_turn: np.ndarray
    kl_detail: np.ndarray

    def save(self, path: str | Path) -> Path:
        """Write every attribute to an .npz file, which ``np.load`` reads without pickle."""
        path = Path(path)
        arrays = {f.name: np.array(getattr(self, f.name)) for f in dataclasses.fields(self)}
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        return path


def joined(parts: Sequence[_Fields]) -> _Fields:
    """Dataclasses of tensors, of such dataclasses or of None, joined along the first axis."""
    first = parts[0]
    if first is None:
        return first
    if isinstance(first, torch.Tensor):
        return torch.cat(list(parts))  # type: ignore[arg-type, return-value]
    names = [field.name for field in dataclasses.fields(first)]  # type: ignore[arg-type]
    return type(first)(*(joined([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True)
class ModelKL:
    """Nats, of M models: ``z_global`` (M,), ``shift`` (M,), ``turn`` and ``detail`` (M, L)."""

    z_global: torch.Tensor
    shift: torch.Tensor
    turn: torch.Tensor
    detail: torch.Tensor


def model_kl(network: ProteinCVAE, posterior: Posterior, condition: Condition) -> ModelKL:
    """KL of each model from the prior; see the module."""
    mean = posterior.mean()
    prior = network.prior_local(condition, mean.z_global, mean.shift)
    prior_shift = network.prior_shift(condition, mean.z_global)
    on_shift = condition.network.kl(posterior.shift, posterior.shift_log_var, prior_shift)
    return ModelKL(
        z_global=posterior.z_global.kl(network.prior_global(condition)).sum(-1),
        shift=on_shift,
        turn=posterior.turn.kl(prior.turn).sum(-1),
        detail=posterior.detail.kl(prior.detail).sum(-1),
    )


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
) -> EncodedLatents:
    """Encode every model of an ensemble.

    Args:
        network: trained.
        ensemble: one model or more.
        template: number of the model that is the template; None for the central one.
        embedder: as in training.

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
        blocks = list(posterior_blocks(network, prepared, models, position))
        kl = joined([model_kl(network, *block) for block in blocks])
    posterior = joined([block[0] for block in blocks])
    mean = posterior.mean()
    log_var = torch.cat(
        [
            posterior.shift_log_var[..., None].expand(-1, -1, 3),
            posterior.turn.log_var,
            posterior.detail.log_var,
        ],
        dim=-1,
    )
    arrays = (
        mean.z_global,
        (0.5 * posterior.z_global.log_var).exp(),
        mean.z_local,
        (0.5 * log_var).exp(),
        kl.z_global,
        kl.shift,
        kl.turn,
        kl.detail,
    )
    return EncodedLatents(
        ensemble.name,
        ensemble.sequence,
        tuple(ensemble.label(i) for i in range(ensemble.length)),
        np.array(ensemble.model_numbers, dtype=np.int64),
        ensemble.model_numbers[position],
        *(array.cpu().numpy().astype(np.float32) for array in arrays),
    )


def encode_against(
    network: ProteinCVAE,
    ensemble: Ensemble,
    template: Ensemble,
    embedder: SequenceEmbedder | None = None,
) -> EncodedLatents:
    """Encode every model of an ensemble, relative to a structure that is none of its models.

    Args:
        network: trained.
        ensemble: one model or more.
        template: one model of the same residues.
        embedder: as in training.

    Returns:
        The latents; ``template_model`` is a number that none of the models has.
    """
    number = min(ensemble.model_numbers) - 1
    joined_models = dataclasses.replace(
        ensemble,
        coordinates=torch.cat([template.coordinates, ensemble.coordinates]),
        mask=torch.cat([template.mask, ensemble.mask]),
        model_numbers=(number, *ensemble.model_numbers),
    )
    found = encode_models(network, joined_models, number, embedder)
    models = {
        name: getattr(found, name)[1:]
        for name in ("model_numbers", "z_global", "z_global_sd", "z_local", "z_local_sd",
                     "kl_global", "kl_shift", "kl_turn", "kl_detail")
    }  # fmt: skip
    return dataclasses.replace(found, **models)
