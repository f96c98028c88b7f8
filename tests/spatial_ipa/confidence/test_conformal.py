"""The conformal guarantee and the fit of sigma."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import procrustes

from spatial_ipa.confidence.calibration import PlacedSlide, calibrate
from spatial_ipa.confidence.conformal import (
    ErrorModel,
    conformal_quantile,
    placement_errors,
    radius_check,
)
from spatial_ipa.geometry.metrics import procrustes_rmse

WEIGHTS = (0.6, 0.0, 0.9)


def placed(n: int, seed: int, name: str = "slide") -> PlacedSlide:
    """Errors of a known law: sigma of the module times a Rayleigh deviate."""
    rng = np.random.default_rng(seed)
    features = np.exp(0.5 * rng.standard_normal((n, 3)))
    sigma = ErrorModel(-1.0, WEIGHTS).sigma(features)
    return PlacedSlide(name, f"{seed}", sigma * rng.rayleigh(size=n), features, 0.9, 1.2)


def test_quantile_is_that_of_the_definition() -> None:
    scores = np.arange(1.0, 10.0)  # 9 scores: 0.9 is the 9th, 0.5 the 5th
    assert conformal_quantile(scores, 0.9) == 9
    assert conformal_quantile(scores, 0.5) == 5
    assert conformal_quantile(scores, 0.501) == 6
    with pytest.raises(ValueError, match=r"coverage=0.91 needs more than the 9 .* 0.9000"):
        conformal_quantile(scores, 0.91)
    for coverage in (0.0, 1.0, -1.0, 2.0):
        with pytest.raises(ValueError, match=r"coverage must lie in \(0, 1\)"):
            conformal_quantile(scores, coverage)


@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_coverage_of_exchangeable_cells(coverage: float) -> None:
    """Mean over 200 calibrations on 100 cells, each checked on 500 new ones.

    With m = 50 scores coverage is Beta(r, m + 1 - r) distributed with r = ceil(51 coverage): mean
    r / 51, standard deviation below 0.07; over 200 repetitions 0.005, plus 0.0016 binomial.
    """
    found = []
    for seed in range(200):
        calibration = calibrate([placed(100, 2 * seed)], 16)
        new = placed(500, 2 * seed + 1)
        found.append((new.error <= calibration.radius(new.features, coverage)).mean())
    assert np.mean(found) == pytest.approx(np.ceil(51 * coverage) / 51, abs=0.02)


def test_coverage_holds_for_a_wrong_model_of_sigma() -> None:
    """Errors that have nothing to do with the features are covered all the same."""
    found = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        old, new = (
            PlacedSlide("s", "", rng.exponential(size=n), rng.random((n, 3)), 1.0, 1.2)
            for n in (200, 500)
        )
        found.append((new.error <= calibrate([old], 16).radius(new.features)).mean())
    assert np.mean(found) == pytest.approx(0.9, abs=0.02)


def test_the_law_of_errors_is_recovered() -> None:
    model = calibrate([placed(20_000, 0)], 16).model
    assert model.weights == pytest.approx(WEIGHTS, abs=0.08)


def test_radii_grow_with_every_feature_and_with_coverage() -> None:
    """Also where the data say otherwise: weights are never negative."""
    slide = placed(400, 0)
    opposed = replace(slide, features=1 / slide.features)
    assert calibrate([opposed], 16).model.weights == (0.0, 0.0, 0.0)
    calibration = calibrate([slide], 16)
    assert min(calibration.model.weights) >= 0
    low = calibration.radius(slide.features)
    for column in range(3):
        more = slide.features.copy()
        more[:, column] *= 2
        assert (calibration.radius(more) >= low).all()
    assert (calibration.radius(slide.features, 0.95) > low).all()


def test_errors_are_those_of_procrustes() -> None:
    rng = np.random.default_rng(0)
    true = 100 + 30 * rng.random((80, 2))
    pred = true @ np.array([[0.6, 0.8], [0.8, -0.6]]) * 0.01 + 0.05 * rng.random((80, 2))
    error, scale = placement_errors(pred, true)
    assert np.sqrt((error**2).mean()) == pytest.approx(procrustes_rmse(pred, true))
    assert (error**2).mean() == pytest.approx(procrustes(true, pred)[2])
    assert 0 < scale <= 1


def test_radius_check() -> None:
    true = np.random.default_rng(0).random((50, 2))
    abstain = np.arange(50) < 10
    radius = np.full(50, 0.1)
    radius[:2] = np.nan
    found = radius_check(radius, abstain, true, true)
    assert found["coverage"] == 1
    assert found["abstained"] == 0.2
    assert found["median_radius"] == pytest.approx(0.1)
    assert np.isnan(radius_check(radius, abstain & False, true, true)["median_error_abstained"])
