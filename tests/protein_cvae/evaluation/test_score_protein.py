"""One protein: what the network is shown, and what is scored."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from protein_cases import (
    SETTINGS,
    make_cases,
    make_ensemble,
    make_network,
    means,
)

from protein_cvae.data.batch import ProteinBatch, collate
from protein_cvae.data.cases import EvaluationCase
from protein_cvae.evaluation.rates import rate_points
from protein_cvae.evaluation.score_protein import MODES, evaluate_case, generate
from protein_cvae.evaluation.scores import (
    pooled_active_units,
    reconstruction,
    score_conformers,
)
from protein_cvae.model.kl import kl_terms
from protein_cvae.model.rate import CLEAN


@pytest.fixture(scope="module")
def case() -> EvaluationCase:
    return make_cases(make_ensemble("alpha"))[0]


def unfinished(x: torch.Tensor, batch: ProteinBatch, mask: torch.Tensor) -> torch.Tensor:
    """A finisher that leaves a mark: everything twice as large."""
    return 2 * x


def test_one_protein_is_scored_as_its_parts_say(case):
    network = make_network().train()
    result, conformers = evaluate_case(network, case, SETTINGS, None)
    assert network.training
    assert list(conformers) == list(result.conformers) == ["real", *MODES]
    assert {m: len(x) for m, x in conformers.items()} == {"real": 6, "resample": 5, "prior": 5}
    for mode in MODES:
        again = score_conformers(conformers[mode], case)
        assert again.all == result.conformers[mode].all
        assert result.conformers[mode].seconds > 0
    assert torch.equal(conformers["real"], case.coordinates[list(case.given)])

    network.eval()
    judged = list(case.judged)
    truth = case.prepared.ensemble.aatype
    with torch.no_grad():
        batch = collate([case.item(m) for m in judged])
        noise = network.noise(batch, SETTINGS.seed, 0, len(MODES))
        drawn = torch.full((len(judged), 2), SETTINGS.noise), noise
        decoded, posterior, condition, z = network.reconstruct(batch, *drawn)
        kl = kl_terms(network, posterior, condition, z, batch.weight)
        unnamed = collate([case.item(m, sequence=False) for m in judged])
        hidden, *_ = network.reconstruct(unnamed, *drawn)
        bare = collate([case.item(m, template=False) for m in judged])
        free, *_ = network.reconstruct(bare, *drawn)
        everything = means(network, collate([case.item(m) for m in (*case.given, *judged)]))
    assert result.reconstruction == reconstruction(decoded.coordinates, case)
    assert result.reconstruction_free == reconstruction(free.coordinates, case)
    assert result.reconstruction != result.reconstruction_free
    named, unaided = (
        float((x.logits.argmax(-1) == truth).double().mean()) for x in (decoded, hidden)
    )
    assert result.sequence.with_sequence == pytest.approx(named)
    assert result.sequence.without_sequence == pytest.approx(unaided)
    counts = torch.bincount(truth, minlength=20)
    assert result.sequence.commonest == pytest.approx(float(counts.max() / counts.sum()))
    assert result.latents.kl["global"] == pytest.approx(float(kl.z_global), rel=1e-4)
    assert result.latents.kl["shift"] == pytest.approx(float(kl.shift), rel=1e-4)
    assert result.latents.kl["turn"] == pytest.approx(float(kl.turn), rel=1e-4)
    assert set(result.latents.kl) == {"global", "shift", "turn", "free"}
    spread = everything.z_global.numpy().var(0, ddof=1)
    assert result.latents.active_global == int((spread > 0.01).sum())
    local = everything.z_local.numpy().var(0, ddof=1).mean(0)
    assert result.latents.active_local == int((local > 0.01).sum())
    assert (result.latents.d_global, result.latents.d_local) == (4, 6)
    whole = everything.z_local.flatten(0, 1).numpy().var(0, ddof=1)
    assert pooled_active_units([result.latents.local_moments]) == int((whole > 0.01).sum())


def test_rates_are_those_of_the_settings_or_none(case):
    network = make_network()
    few = dataclasses.replace(SETTINGS, rates=(0.3,))
    result, _ = evaluate_case(network, case, few, None)
    assert list(result.rates) == rate_points(network, case, few)
    assert [point.noise for point in result.rates] == [0.3, CLEAN]
    result, _ = evaluate_case(network, case, dataclasses.replace(SETTINGS, rates=()), None)
    assert result.rates == ()


def test_draws_depend_on_seed_and_name_only(case):
    network = make_network().eval()
    with torch.no_grad():
        first, _ = generate(network, case, SETTINGS, None)
        chunked, _ = generate(network, case, dataclasses.replace(SETTINGS, chunk=1), None)
        other, _ = generate(network, case, dataclasses.replace(SETTINGS, seed=1), None)
    for mode in MODES:
        torch.testing.assert_close(first[mode], chunked[mode], atol=1e-4, rtol=1e-4)
        assert not torch.allclose(first[mode], other[mode], atol=1e-2)


def test_the_prior_knows_the_template_and_nothing_of_the_other_models(case):
    network = make_network().eval()
    ensemble, central = case.prepared.ensemble, case.prepared.central
    spoiled = torch.randn(ensemble.coordinates.shape, generator=torch.Generator())
    spoiled[central] = ensemble.coordinates[central]
    other = dataclasses.replace(
        case,
        prepared=dataclasses.replace(
            case.prepared, ensemble=dataclasses.replace(ensemble, coordinates=spoiled)
        ),
    )
    with torch.no_grad():
        first, second = (generate(network, c, SETTINGS, None)[0] for c in (case, other))
    assert torch.equal(first["prior"], second["prior"])
    assert not torch.allclose(first["resample"], second["resample"], atol=1e-2)


def test_everything_generated_goes_through_the_finisher(case):
    network = make_network()
    plain, x = evaluate_case(network, case, SETTINGS, None)
    marked, y = evaluate_case(network, case, SETTINGS, unfinished)
    for mode in MODES:
        torch.testing.assert_close(y[mode], 2 * x[mode])
    assert torch.equal(y["real"], x["real"])
    assert marked.reconstruction != plain.reconstruction
    assert marked.reconstruction_free != plain.reconstruction_free
