"""Augmented views and draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spatial_ipa.data.expression import Normalisation
from spatial_ipa.data.slide import Slide
from spatial_ipa.encoder.views import ViewDataset, ViewSettings, augmented_view, disturb

LOG = Normalisation("log")
GENES = [f"g{i}" for i in range(120)]


NO_VIEWS = ViewSettings(1.0, 0.0, 0.0, 0.0)


def make_slide(n: int = 80, logged: bool = False) -> Slide:
    rng = np.random.default_rng(0)
    counts = rng.poisson(5.0, (n, len(GENES))) * (0.37 if logged else 1)
    return Slide.build("a", counts, GENES, rng.random((n, 2)), is_logged=logged)


def test_disturbance_leaves_the_expectation() -> None:
    x = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)
    settings = ViewSettings(1.0, gene_dropout=0.4, scale_jitter=0.3, noise=0.5)
    rng = np.random.default_rng(0)
    draws = np.stack([disturb(x, settings, rng) for _ in range(20_000)])
    # Six standard errors of the mean of 20,000 draws.
    np.testing.assert_allclose(
        draws.mean(axis=0), x, atol=6 * draws.std(axis=0).max() / 20_000**0.5
    )


def test_thinning_keeps_the_drawn_share_of_counts_and_only_counts() -> None:
    slide = make_slide(400)
    settings = ViewSettings(keep_min=0.4, gene_dropout=0.0, scale_jitter=0.0, noise=0.0)
    rng = np.random.default_rng(0)
    view = augmented_view(slide.counts, False, LOG, settings, rng)
    plain = augmented_view(slide.counts, False, LOG, NO_VIEWS, rng)
    assert not np.allclose(view, plain)
    assert np.abs(view.mean(axis=0)).max() < 1e-4  # centred on itself
    logged = make_slide(logged=True)
    views = [augmented_view(logged.counts, True, LOG, s, rng) for s in (settings, NO_VIEWS)]
    np.testing.assert_array_equal(views[0], views[1])


def test_draws_are_functions_of_seed_and_index() -> None:
    slides = [make_slide()]
    make = [ViewDataset(slides, GENES, LOG, 32, ViewSettings(), seed) for seed in (0, 0, 1)]
    a, b, c = (dataset[7][0].views[0] for dataset in make)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert not torch.equal(a, make[0][8][0].views[0])
    assert not torch.equal(a, make[0][7][0].views[1])


def test_slides_without_coordinates_never_come_first_or_carry_any() -> None:
    located, hidden = make_slide(), Slide.build("h", make_slide().counts, GENES, None)
    dataset = ViewDataset([located], GENES, LOG, 32, ViewSettings(), 0, without_xy=[hidden])
    for index in range(10):
        first, second = dataset[index]
        assert first.xy is not None
        assert (second.domain, second.xy, second.is_scrna) == (1, None, False)


def test_wrong_view_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="keep_min"):
        ViewSettings(keep_min=0.0)
    with pytest.raises(ValueError, match="noise"):
        ViewSettings(noise=-1.0)
