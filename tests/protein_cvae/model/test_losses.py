"""Losses: padding is not scored; every term has its weight."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from protein_batches import (
    TOLERANCE,
    conformer,
)

from protein_cvae.data.batch import collate
from protein_cvae.model.losses import (
    TERMS,
    LossWeights,
    fit_terms,
    geometry_terms,
    weighted,
)
from protein_cvae.model.states import Decoded


def test_losses_ignore_padding():
    weights = LossWeights()
    items = [conformer(18, 0), conformer(30, 1)]
    joined = collate([dataclasses.replace(i, weight=i.weight.float()) for i in items])
    generator = torch.Generator().manual_seed(3)
    x = joined.coordinates + 0.3 * torch.randn(
        joined.coordinates.shape, generator=generator, dtype=torch.float64
    )
    logits = torch.randn(2, 30, 20, generator=generator, dtype=torch.float64)

    def score(x, logits, batch):
        fit = fit_terms(Decoded(x, logits), batch, batch.mask, weights.tail)
        shape = geometry_terms(Decoded(x, logits), batch, batch.mask)
        return weighted(weights, fit, 0.5) + weighted(weights, shape, 0.5)

    together = score(x, logits, joined)
    alone = score(x[:1, :18], logits[:1, :18], items[0])
    torch.testing.assert_close(together[:1], alone, **TOLERANCE)


def test_every_term_has_its_weight_and_every_weight_a_term():
    others = {"kl_global", "kl_local", "coil", "tail", "untemplated", "prior_geometry"}
    assert set(TERMS) == {f.name for f in dataclasses.fields(LossWeights)} - others


def test_a_term_is_weighted_by_its_name_and_its_progress():
    ones = {name: torch.ones(2) for name in TERMS}
    only = dict.fromkeys(TERMS, 0.0)
    plain = LossWeights(**(only | {"clash": 3.0}))
    assert weighted(plain, ones, 0.5).tolist() == [3.0, 3.0]
    running = LossWeights(**(only | {"bond": (1.0, 5.0)}))
    assert [float(weighted(running, ones, at)[0]) for at in (-1.0, 0.0, 0.5, 2.0)] == [1, 1, 3, 5]


@pytest.mark.parametrize(
    ("weights", "name"),
    [({"clash": -1.0}, "clash"), ({"bond": (200.0, float("nan"))}, "bond")],
)
def test_weights_that_are_no_weights_are_refused(weights, name):
    with pytest.raises(ValueError, match=rf"weights\.{name} must be finite and not negative"):
        LossWeights(**weights)
