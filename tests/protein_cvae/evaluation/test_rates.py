"""Rate and distortion: the linear codecs against dense NumPy, and the curve of a network."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from protein_cases import SETTINGS, kabsch_rmsd, make_cases, make_ensemble, make_network
from protein_modes import dense_precision
from scipy.optimize import minimize_scalar
from scipy.spatial.transform import Rotation
from scipy.stats import norm

from common.rng import combined_key, counter_normal
from protein_cvae.data.batch import collate
from protein_cvae.data.cases import EvaluationCase
from protein_cvae.evaluation.rates import (
    GLOBAL_ALONE,
    OURS,
    LinearCodec,
    distortion,
    linear_points,
    rate_points,
)
from protein_cvae.geometry.constants import CA
from protein_cvae.model.elastic import AMPLITUDE
from protein_cvae.model.kl import kl_terms
from protein_cvae.model.rate import CLEAN, SILENT


@pytest.fixture(scope="module")
def case() -> EvaluationCase:
    return make_cases(make_ensemble("alpha"))[0]


def ca_of(case: EvaluationCase, models: tuple[int, ...]) -> np.ndarray:
    return case.coordinates[list(models)][:, :, CA].double().numpy()


def superposed(x: np.ndarray, target: np.ndarray) -> np.ndarray:
    centre = target.mean(0)
    turn, _ = Rotation.align_vectors(target - centre, x - x.mean(0))
    return turn.apply(x - x.mean(0)) + centre


def test_pca_is_that_of_the_given_models(case: EvaluationCase):
    """About a mean on which they are superposed."""
    codec = LinearCodec.pca(case, 100)
    centre = codec.centre.numpy()
    moved = np.array([superposed(x, centre) for x in ca_of(case, case.given)])
    np.testing.assert_allclose(moved.mean(0), centre, atol=1e-4)
    gap = (moved - moved.mean(0)).reshape(len(moved), -1)
    values, vectors = np.linalg.eigh(gap.T @ gap / (len(moved) - 1))
    count = len(moved) - 1
    assert codec.directions.shape == (gap.shape[1], count)
    np.testing.assert_allclose(codec.variance.numpy(), values[::-1][:count], rtol=1e-4)
    overlap = np.abs(np.sum(codec.directions.numpy() * vectors[:, ::-1][:, :count], 0))
    np.testing.assert_allclose(overlap, 1, atol=1e-3)
    assert LinearCodec.pca(case, 2).directions.shape[1] == 2


def test_modes_are_those_of_the_elastic_network_of_the_template(case: EvaluationCase):
    codec = LinearCodec.modes(case, 6)
    template = ca_of(case, (case.prepared.central,))[0]
    np.testing.assert_allclose(codec.centre.numpy(), template, atol=1e-4)
    ensemble = case.prepared.ensemble
    precision = dense_precision(codec.centre.numpy(), ensemble.chain_index.numpy())
    values, vectors = np.linalg.eigh(precision)
    np.testing.assert_allclose(codec.variance.numpy(), 1 / values[:6], rtol=1e-3)
    overlap = np.abs(np.sum(codec.directions.numpy() * vectors[:, :6], 0))
    np.testing.assert_allclose(overlap, 1, atol=1e-3)


@pytest.mark.parametrize("kind", ["pca", "modes"])
@pytest.mark.parametrize("noise", [0.1, 0.6])
def test_a_point_is_the_dense_formula(case: EvaluationCase, kind: str, noise: float):
    """Rate of one draw of each judged model, decoded by the mean given what is seen."""
    codec = getattr(LinearCodec, kind)(case, 4)
    point = codec.point(case, noise, seed=3)
    directions, variance = codec.directions.numpy(), codec.variance.numpy()
    centre, judged = codec.centre.numpy(), ca_of(case, case.judged)
    key = combined_key(3, 7, torch.arange(len(judged)))
    drawn = counter_normal(key, 4, torch.float64).numpy()
    nats, rmsd, core = [], [], []
    for x, epsilon in zip(judged, drawn, strict=True):
        b = (superposed(x, centre) - centre).ravel() @ directions
        z = b + noise * epsilon

        def cost(a: float, z=z) -> float:
            total = variance * math.exp(2 * AMPLITUDE * a) + noise**2
            return a * a / 2 - norm.logpdf(z, scale=np.sqrt(total)).sum()

        # Of the given models the variance is known, of a structure the amplitude is not.
        a = 0.0
        if kind == "modes":
            a = minimize_scalar(cost, bounds=(-6.5, 6.5), method="bounded").x
        nats.append(norm.logpdf(z, loc=b, scale=noise).sum() + cost(a))
        scale = variance * math.exp(2 * AMPLITUDE * a)
        made = centre + (directions @ (scale / (scale + noise**2) * z)).reshape(-1, 3)
        rmsd.append(kabsch_rmsd(made, x))
        core.append(kabsch_rmsd(made[case.core], x[case.core]))
    assert point.nats == pytest.approx(np.mean(nats) / len(centre), rel=1e-4)
    assert point.nats_motion == point.nats
    assert point.ca_all == pytest.approx(np.mean(rmsd), rel=1e-3)
    assert point.ca_core == pytest.approx(np.mean(core), rel=1e-3)
    assert (point.method, point.noise, point.dimensions) == (f"{kind}, 4", noise, 4)


def test_all_components_and_no_noise_give_back_what_they_are_of(case: EvaluationCase):
    """The given models are in their own span, the held-out ones are not."""
    prepared = dataclasses.replace(case.prepared, judged=case.given)
    seen = dataclasses.replace(case, prepared=prepared)
    codec = LinearCodec.pca(seen, 100)
    assert codec.point(seen, 1e-4, 0).ca_all < 1e-2
    assert codec.point(case, 1e-4, 0).ca_all > 0.1


def test_the_rate_of_linear_codecs_falls_with_the_noise(case: EvaluationCase):
    noises = (0.05, 0.2, 0.8, 3.0)
    points = linear_points(case, noises, (2, 5), 0)
    assert len(points) == 2 * 2 * 4
    for method in ("pca", "modes"):
        for count in (2, 5):
            mine = [p for p in points if p.method == f"{method}, {count}"]
            assert {p.dimensions for p in mine} == {count}
            assert [p.noise for p in mine] == list(noises)
            nats = [p.nats for p in mine]
            assert nats == sorted(nats, reverse=True)


def test_points_of_a_network_are_its_kl_and_its_decoder(case: EvaluationCase):
    network = make_network().train()
    settings = dataclasses.replace(SETTINGS, rates=(0.1, 0.4))
    points = rate_points(network, case, settings)
    assert network.training
    assert points == rate_points(network, case, dataclasses.replace(settings, chunk=100))
    levels = ((OURS, 0.1, 0.1), (OURS, 0.4, 0.4), (GLOBAL_ALONE, CLEAN, SILENT))
    length = case.prepared.ensemble.length
    network.eval()
    for point, (method, of_global, of_local) in zip(points, levels, strict=True):
        with torch.no_grad():
            batch = collate([case.item(m) for m in case.judged])
            level = torch.tensor([of_global, of_local]).expand(len(batch), 2)
            noise = network.noise(batch, settings.seed, 0, 7)
            decoded, posterior, condition, z = network.reconstruct(batch, level, noise)
            kl = kl_terms(network, posterior, condition, z, batch.weight)
        assert (point.method, point.noise) == (method, of_global)
        assert point.dimensions == (4 if method == GLOBAL_ALONE else 6 * length)
        motion = float(kl.z_global + kl.shift)
        assert point.nats_motion == pytest.approx(motion, rel=1e-4)
        assert point.nats == pytest.approx(motion + float(kl.turn), rel=1e-4)
        made, real = decoded.coordinates[:, :, CA].numpy(), ca_of(case, case.judged)
        rmsd = [kabsch_rmsd(a, b) for a, b in zip(made, real, strict=True)]
        assert point.ca_all == pytest.approx(np.mean(rmsd), rel=1e-3)
        core = [kabsch_rmsd(a[case.core], b[case.core]) for a, b in zip(made, real, strict=True)]
        assert point.ca_core == pytest.approx(np.mean(core), rel=1e-3)


def test_more_noise_passes_less_and_distorts_more(case: EvaluationCase):
    settings = dataclasses.replace(SETTINGS, rates=(0.02, 0.2, 1.0, 5.0))
    *points, alone = rate_points(make_network(), case, settings)
    for name in ("nats", "nats_motion"):
        rates = [getattr(point, name) for point in points]
        assert rates == sorted(rates, reverse=True)
    errors = [point.ca_all for point in points]
    assert errors == sorted(errors)
    assert errors[0] < 0.3
    # A few numbers for the whole protein, of less information than all of them.
    assert alone.nats < points[0].nats
    assert alone.ca_all > points[0].ca_all


def test_a_core_that_is_too_small_has_no_distortion(case: EvaluationCase):
    none = torch.zeros_like(case.prepared.core)
    bare = dataclasses.replace(case, prepared=dataclasses.replace(case.prepared, core=none))
    core, everything = distortion(case.coordinates[list(case.judged)][:, :, CA], bare)
    assert np.isnan(core)
    assert everything < 1e-3
