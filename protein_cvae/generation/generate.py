"""New conformers of a protein, written as a multi-model file.

==========  ======================================================  ==============================
mode        drawn from                                              template
==========  ======================================================  ==============================
ensemble    the models of the input, smoothed (sampling's formula)  the central model, or ``model``
around      the posterior of one model, ``model``                   the central model
prior       p(z | sequence, template)                               the central model, or ``model``
sequence    p(z | sequence)                                         none
==========  ======================================================  ==============================

Mode ``prior`` can be told how wide its conformers are (:mod:`protein_cvae.generation.spread`).
With one seed, no mode depends on the pose of the input.  The spread of an NMR bundle is not a
Boltzmann distribution, and neither is what is drawn here.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from common.errors import UserError
from common.rng import generator_for
from protein_cvae.data.batch import ProteinBatch
from protein_cvae.data.embeddings import SequenceEmbedder
from protein_cvae.data.prepared import PreparedEnsemble
from protein_cvae.ensemble import Ensemble
from protein_cvae.generation.finisher import geometry_finisher
from protein_cvae.generation.inputs import (
    check_complete,
    check_embedder,
    check_length,
    model_position,
    prepare,
)
from protein_cvae.generation.outputs import (
    bundle,
)
from protein_cvae.generation.side_chains import (
    Atoms,
    check_atoms,
    check_word,
    with_side_chains,
)
from protein_cvae.generation.spread import SpreadOptions, told_spread
from protein_cvae.generation.told import MIN_PILOT, told_motion
from protein_cvae.geometry.superposition import core_mask
from protein_cvae.model import sampling
from protein_cvae.model.latents import Latents
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.sampling import evaluating, posterior_means

Mode = Literal["resample", "around", "prior", "sequence"]
_MODES = ("resample", "around", "prior", "sequence")
# Conformers drawn or decoded at once; fixed, because the order of random numbers depends on it.
_CHUNK = 16


@dataclass(frozen=True)
class GenerateOptions:
    """What to generate.

    Attributes:
        mode: see the module.
        count: conformers.
        model: number of a model, as the file numbers it; None for the central one.
        temperature: factor on the spread of the draws.
        bandwidth: of mode ``resample``, in [0, 1]: 0 repeats the models, 1 is a Gaussian.
        seed: of the draws.
        finish: make the geometry valid; False gives the decoder's own output.
        atoms: ``heavy``: with side chains, carried from the input's nearest model or packed;
            ``backbone``: N, CA, C and O; ``auto``: heavy where that can be had.
        spread: of mode ``prior``: how wide the conformers are; None for what was learned.

    Raises:
        ValueError: on a number out of range, or a spread told to another mode.
    """

    mode: Mode = "resample"
    count: int = 20
    model: int | None = None
    temperature: float = 1.0
    bandwidth: float = 0.5
    seed: int = 0
    finish: bool = True
    atoms: Atoms = "auto"
    spread: SpreadOptions | None = None

    def __post_init__(self) -> None:
        if self.mode not in _MODES:
            raise UserError(f"mode must be one of {', '.join(_MODES)}, got {self.mode!r}")
        check_word(self.atoms)
        if self.count < 1:
            raise UserError(f"count must be at least 1, got {self.count}")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UserError(f"temperature must be finite and not negative, got {self.temperature}")
        if not 0 <= self.bandwidth <= 1:
            raise UserError(f"bandwidth must lie in [0, 1], got {self.bandwidth}")
        if self.mode == "sequence" and self.model is not None:
            raise UserError(f"model {self.model}: mode sequence uses no model; leave it out")
        if self.spread is not None and self.mode != "prior":
            raise UserError(
                f"spread: mode {self.mode} takes its spread from what was learned; choose mode "
                "prior or leave spread out"
            )


def check_generation(ensemble: Ensemble, options: GenerateOptions) -> None:
    """Refuse an input that these options cannot be applied to.

    Raises:
        ValueError: naming file, model and residue.
    """
    check_length(ensemble)
    check_atoms(ensemble, None if options.mode == "sequence" else ensemble, options.atoms)
    if options.mode == "sequence":
        return
    if options.model is not None:
        position = model_position(ensemble, options.model, "model")
    if options.mode == "resample" and ensemble.num_models < 2:
        raise UserError(
            f"{ensemble.source}: mode resample needs at least 2 models, the file has 1; use mode "
            "prior or around"
        )
    if options.mode == "prior" and options.model is not None:
        check_complete(ensemble, [position])
    else:  # the central model is chosen among all
        check_complete(ensemble, range(ensemble.num_models))
    if options.spread is not None:
        told_spread(ensemble, options.spread, options.model)


def generate(
    network: ProteinCVAE,
    ensemble: Ensemble,
    options: GenerateOptions | None = None,
    embedder: SequenceEmbedder | None = None,
) -> Ensemble:
    """Draw conformers; deterministic in ``options.seed``.

    Args:
        network: trained.
        ensemble: one model or more; :func:`~protein_cvae.generation.inputs.sequence_ensemble` for a
            bare sequence with mode ``sequence``.
        options: None for the defaults.
        embedder: as in training.

    Returns:
        ``count`` conformers of the same residues, numbered from 1, superposed on their mean by the
        ordered core, in the template's pose; with side chains as ``options.atoms`` says.

    Raises:
        ValueError: see :func:`check_generation` and
            :func:`~protein_cvae.generation.inputs.check_embedder`.
    """
    options = options or GenerateOptions()
    check_generation(ensemble, options)
    check_embedder(network, embedder)
    return generate_prepared(network, prepare(ensemble, embedder), options)


def generate_prepared(
    network: ProteinCVAE, prepared: PreparedEnsemble, options: GenerateOptions
) -> Ensemble:
    """:func:`generate` after all checks."""
    base = prepared.ensemble
    template = template_position(prepared, options)
    finisher = geometry_finisher() if options.finish else None
    told = None if options.spread is None else told_spread(base, options.spread, options.model)
    with evaluating(network):
        batch = _item(prepared, template).to(network.device)

        def decode(latents: Latents) -> Tensor:
            return sampling.decode(network, batch, latents, finisher, _CHUNK)

        if told is None:
            latents = _draw(network, prepared, batch, options)
        else:
            more = dataclasses.replace(options, count=max(options.count, MIN_PILOT))
            latents = _draw(network, prepared, batch, more)
            shift, _ = sampling.motion(network, batch, latents)

            def moved(shift: Tensor, turn: Tensor) -> Tensor:
                return decode(sampling.coded(network, batch, shift, turn))

            made = told_motion(shift, batch, moved, told, options.temperature)
            latents = sampling.coded(network, batch, *made)
        x = decode(latents.map(lambda z: z[: options.count])).cpu()
    onto = None if template is None else base.coordinates[template]
    core = comparison_core(prepared, template, x)
    if told is not None and told.rmsf is not None:
        core = told.superposed  # the B-factor column is what was told
    name = f"{base.name}_{options.mode}"
    source = f"generated (mode {options.mode}) from {base.source}"
    conformers = bundle(base, x, core, onto, name, source)
    return with_side_chains(conformers, None if template is None else base, options.atoms)


def comparison_core(prepared: PreparedEnsemble, template: int | None, generated: Tensor) -> Tensor:
    """(L,) bool: the core of the input's models; of the generated ones if there are no two.

    Args:
        prepared: the input.
        template: position; None where the input's structure is not used.
        generated: (K, L, 3, 3), Å.
    """
    if template is not None and prepared.ensemble.num_models > 1:
        return prepared.core
    mask = torch.ones(generated.shape[:2], dtype=torch.bool)
    return core_mask(generated, prepared.ensemble.bonded, mask)


def template_position(prepared: PreparedEnsemble, options: GenerateOptions) -> int | None:
    """Position of the template; None for mode ``sequence``."""
    if options.mode == "sequence":
        return None
    if options.mode == "around" or options.model is None:
        return prepared.central
    return prepared.ensemble.model_numbers.index(options.model)


def _item(prepared: PreparedEnsemble, template: int | None) -> ProteinBatch:
    """The template as its own conformer, or all residues without any structure."""
    if template is not None:
        return prepared.item(template, template)
    batch = prepared.item(0, None)
    return dataclasses.replace(
        batch,
        coordinates=torch.zeros_like(batch.coordinates),
        mask=torch.ones_like(batch.mask),
    )


def _draw(
    network: ProteinCVAE,
    prepared: PreparedEnsemble,
    batch: ProteinBatch,
    options: GenerateOptions,
) -> Latents:
    generator = generator_for(options.seed)
    if options.mode == "resample":
        models = range(prepared.ensemble.num_models)
        template = template_position(prepared, options)
        assert template is not None
        means = posterior_means(network, prepared, models, template)
        return sampling.resample(
            means, options.count, generator, options.bandwidth, options.temperature
        )
    if options.mode == "around":
        number = options.model
        chosen = prepared.central
        if number is not None:
            chosen = prepared.ensemble.model_numbers.index(number)
        batch = prepared.item(chosen, prepared.central).to(batch.device)

    def draw(count: int) -> Latents:
        make = sampling.sample_around if options.mode == "around" else sampling.sample_prior
        return make(network, batch, count, generator, options.temperature)

    parts = [draw(min(_CHUNK, options.count - first)) for first in range(0, options.count, _CHUNK)]
    return Latents.cat(parts)
