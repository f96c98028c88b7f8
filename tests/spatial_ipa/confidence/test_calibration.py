"""Calibration on simulated tissues, with regression in the place of the model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from regressed_tissues import Regression, Tissue, calibrated, simulated

from spatial_ipa.confidence.calibration import PlacedSlide, calibrate, calibrate_slides, place_slide
from spatial_ipa.confidence.conformal import (
    ErrorModel,
)
from spatial_ipa.data.slide import EmbeddedSlide

WEIGHTS = (0.6, 0.0, 0.9)


def placed(n: int, seed: int, name: str = "slide") -> PlacedSlide:
    """Errors of a known law: sigma of the module times a Rayleigh deviate."""
    rng = np.random.default_rng(seed)
    features = np.exp(0.5 * rng.standard_normal((n, 3)))
    sigma = ErrorModel(-1.0, WEIGHTS).sigma(features)
    return PlacedSlide(name, f"{seed}", sigma * rng.rayleigh(size=n), features, 0.9, 1.2)


def test_halves_do_not_overlap_and_seed_decides() -> None:
    slide = placed(101, 0)
    assert len(calibrate([slide], 16).scores) == 51
    one, again, other = (calibrate([slide], 16, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(one.scores, again.scores)
    assert not np.array_equal(one.scores, other.scores)


def test_coverage_between_slides_shows_a_slide_unlike_the_others() -> None:
    slides = [placed(300, seed, f"s{seed}") for seed in range(3)]
    alike = calibrate(slides, 16).between_slides
    assert len(alike) == 3
    assert min(alike) > 0.8
    unlike = [*slides[:2], replace(slides[2], error=3 * slides[2].error)]
    assert calibrate(unlike, 16).between_slides[2] < 0.5
    assert calibrate(slides[:1], 16).between_slides == ()


def embedded(name: str, n: int = 150, seed: int = 0, fold: bool = False) -> EmbeddedSlide:
    rng = np.random.default_rng(seed)
    xy = rng.uniform(-1, 1, (n, 2))
    seen = np.stack([np.abs(xy[:, 0]), xy[:, 1]], 1) if fold else xy
    h = np.concatenate([2 * seen, 0.05 * rng.standard_normal((n, 6))], 1)
    return EmbeddedSlide(name, h.astype(np.float32), (50 * xy + 9).astype(np.float32))


@pytest.fixture(scope="module")
def plain_tissue() -> Tissue:
    slides = simulated(False)
    return (slides, *calibrated(slides))


@pytest.fixture(scope="module")
def mirror_tissue() -> Tissue:
    slides = simulated(True)
    return (slides, *calibrated(slides))


@pytest.mark.parametrize("name", ["plain_tissue", "mirror_tissue"])
def test_radii_cover_fresh_slides(name: str, request: pytest.FixtureRequest) -> None:
    """Two new slides of 300 cells, 300 scores: standard error sqrt(0.09 (1/600 + 1/300)) = 0.021.

    Four of these are allowed, for the slides' own share comes on top.
    """
    slides, reference, calibration, place = request.getfixturevalue(name)
    new = [place_slide(slide, place, reference) for slide in slides[5:]]
    held = np.concatenate([slide.error <= calibration.radius(slide.features) for slide in new])
    assert held.mean() == pytest.approx(0.9, abs=0.084)
    assert len(calibration.between_slides) == 2


def test_mirror_symmetric_tissue_gets_larger_radii(
    plain_tissue: Tissue, mirror_tissue: Tissue
) -> None:
    radius, ambiguity, abstained = [], [], []
    for slides, reference, calibration, place in (plain_tissue, mirror_tissue):
        new = place_slide(slides[5], place, reference)
        radius.append(calibration.radius(new.features))
        ambiguity.append(np.median(new.features[:, 2]))
        abstained.append((radius[-1] > calibration.median_pair).mean())
    assert np.median(radius[1]) > 1.5 * np.median(radius[0])
    assert ambiguity[1] > 1.25 * ambiguity[0]
    assert abstained[0] < 0.01
    assert abstained[1] > 0.1
    assert set(plain_tissue[2].identifiability) == {"identifiable"}
    assert all("mirror-symmetric" in verdict for verdict in mirror_tissue[2].identifiability)


def test_within_a_symmetric_tissue_the_worse_cells_have_the_larger_radii(
    mirror_tissue: Tissue,
) -> None:
    """Cells near the mirror axis are where they are; far from it they may be on either side."""
    slides, reference, calibration, place = mirror_tissue
    new = place_slide(slides[5], place, reference)
    radius = calibration.radius(new.features)
    small, large = radius < np.quantile(radius, 1 / 3), radius > np.quantile(radius, 2 / 3)
    assert np.median(new.error[large]) > 1.5 * np.median(new.error[small])


def test_training_slides_and_small_slides_are_refused() -> None:
    a, b = embedded("a"), embedded("b", seed=1)
    with pytest.raises(ValueError, match="validation slide copy is training slide a"):
        calibrate_slides([a, b], [replace(a, name="copy")], Regression([a]), 8)
    with pytest.raises(ValueError, match=r"hold 40 cells; .* at least 50"):
        calibrate_slides([a], [embedded("c", 40, 3)], Regression([a]), 8)
    with pytest.raises(ValueError, match=r"slide d has 15 cells; .* 21"):
        calibrate_slides([a], [b, embedded("d", 15, 3)], Regression([a]), 8)
