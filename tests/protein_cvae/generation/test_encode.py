"""encode: latents and their KL are those of the network."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from protein_runs import (
    made_of,
)

from common.rng import generator_for
from protein_cvae.ensemble import Ensemble
from protein_cvae.generation.encode import encode_against, encode_models
from protein_cvae.generation.inputs import prepare
from protein_cvae.model.kl import kl_terms
from protein_cvae.model.latents import Latents
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.sampling import standard_noise


def test_latents_are_those_of_the_module_with_their_kl(
    network: ProteinCVAE, protein: Ensemble, tmp_path: Path
) -> None:
    many = made_of(
        protein.select_models([*range(6)] * 2), model_numbers=tuple(range(3, 15))
    )  # more than are encoded at once
    latents = encode_models(network, many, template=5)
    assert latents.template_model == 5
    prepared = prepare(many, None)
    network.eval()
    generator = generator_for(0)
    blocks = [standard_noise(network, many.length, count, generator) for count in (8, 4)]
    noise = Latents.cat(blocks)
    for m in (0, 11):
        with torch.no_grad():
            batch = prepared.item(m, 2)
            condition = network.condition(batch)
            mean = network.posterior_mean(condition, network.encode(batch, condition))
            posterior = network.encode(batch, condition, torch.full((1, 2), latents.noise))
            normal = noise.map(lambda x, m=m: x[m : m + 1])
            z = network.sample_posterior(condition, posterior, normal)
            kl = kl_terms(network, posterior, condition, z, batch.weight)
        assert np.allclose(latents.z_global[m], mean.z_global[0], atol=1e-4)
        assert np.allclose(latents.z_local[m], mean.z_local[0], atol=1e-4)
        length = many.length
        assert latents.kl_global[m] / length == pytest.approx(float(kl.z_global), rel=1e-3)
        assert latents.kl_shift[m] / length == pytest.approx(float(kl.shift), rel=1e-3)
        assert latents.kl_turn[m] / length == pytest.approx(float(kl.turn), rel=1e-3)
    latents.save(tmp_path / "z.npz")
    with np.load(tmp_path / "z.npz", allow_pickle=False) as stored:
        assert set(stored) == {field.name for field in dataclasses.fields(latents)}
        assert np.array_equal(stored["z_local"], latents.z_local)
        assert str(stored["name"]) == protein.name
        assert stored["residues"].tolist()[0] == protein.label(0)
        assert stored["model_numbers"].tolist() == list(range(3, 15))


def test_the_kl_falls_with_the_noise_and_the_latents_do_not_change(
    network: ProteinCVAE, protein: Ensemble
) -> None:
    little, much = (encode_models(network, protein, noise=s) for s in (0.05, 0.8))
    assert (little.noise, much.noise) == (0.05, 0.8)
    assert np.array_equal(little.z_global, much.z_global)
    assert np.array_equal(little.z_local, much.z_local)
    away = little.model_numbers != little.template_model
    for name in ("kl_global", "kl_shift", "kl_turn"):
        assert (getattr(little, name)[away] > getattr(much, name)[away]).all()
    # The template has not moved from itself.
    assert np.abs(little.z_local[~away]).max() < 1e-3


def test_a_template_that_is_no_model_of_the_ensemble(
    network: ProteinCVAE, protein: Ensemble
) -> None:
    """Latents relative to another structure are those relative to it as one more model."""
    other, models = protein.select_models([4]), protein.select_models([0, 1, 2])
    found = encode_against(network, models, other)
    assert found.model_numbers.tolist() == list(models.model_numbers)
    assert found.template_model not in found.model_numbers
    together = made_of(protein.select_models([4, 0, 1, 2]), model_numbers=(9, 1, 2, 3))
    wanted = encode_models(network, together, template=9)
    for name in ("z_global", "z_local", "kl_global", "kl_shift", "kl_turn"):
        assert np.array_equal(getattr(found, name), getattr(wanted, name)[1:])
