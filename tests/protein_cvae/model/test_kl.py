"""KL terms add up over items, and are those of torch.distributions."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from protein_batches import conformer, small_model
from torch.distributions import Normal, kl_divergence

from protein_cvae.data.batch import ProteinBatch, collate
from protein_cvae.model.channel import TURN_NOISE
from protein_cvae.model.kl import KLTerms, item_kl, kl_terms, kl_values
from protein_cvae.model.latents import Latents
from protein_cvae.model.losses import LossWeights
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.states import Condition, Posterior

LEVEL = torch.tensor([[0.1, 0.3], [0.2, 0.2], [0.7, 30.0]], dtype=torch.float64)
WEIGHTS = (1.0, 0.5, 2.0)


def items() -> list[ProteinBatch]:
    made = [conformer(18, 0), conformer(30, 1, templated=False), conformer(25, 2, sequence=False)]
    return [
        dataclasses.replace(item, weight=torch.tensor([w], dtype=torch.float64))
        for item, w in zip(made, WEIGHTS, strict=True)
    ]


def drawn(
    model: ProteinCVAE, batch: ProteinBatch, condition: Condition, posterior: Posterior
) -> Latents:
    """A draw, of which an item's part depends on itself alone."""
    return model.sample_posterior(condition, posterior, model.noise(batch, 0, 0, 0))


@torch.no_grad()
def terms(model: ProteinCVAE, batch: ProteinBatch, level: torch.Tensor, floor: float) -> KLTerms:
    condition = model.condition(batch)
    posterior = model.encode(batch, condition, level)
    z = drawn(model, batch, condition, posterior)
    return kl_terms(model, posterior, condition, z, batch.weight, floor)


@pytest.mark.parametrize("design", ["shared", "separate"])
@pytest.mark.parametrize("floor", [0.0, 0.05])
def test_a_batch_is_the_weighted_mean_of_its_items(design: str, floor: float):
    """So a training on several processes is that of one."""
    model = small_model(sequence_design=design)
    together = terms(model, collate(items()), LEVEL, floor)
    alone = [terms(model, item, LEVEL[i : i + 1], floor) for i, item in enumerate(items())]
    for field in dataclasses.fields(KLTerms):
        each = torch.stack([getattr(one, field.name) for one in alone])
        weight = torch.tensor(WEIGHTS, dtype=torch.float64)
        wanted = (weight * each).sum() / weight.sum()
        torch.testing.assert_close(
            getattr(together, field.name), wanted, rtol=1e-8, atol=1e-10, msg=field.name
        )
        assert (float(wanted) != 0) == (field.name != "sequence" or design == "separate")


def test_items_have_the_latents_that_exist():
    model, batch = small_model(), collate(items())
    condition = model.condition(batch)
    posterior = model.encode(batch, condition, LEVEL)
    found = item_kl(model, posterior, condition, drawn(model, batch, condition, posterior))
    templated = torch.tensor([True, False, True])
    for nats in (found.z_global, found.shift, found.turn):
        assert torch.equal(nats != 0, templated)
    assert torch.equal(found.free > 0, ~templated)
    assert float(found.sequence.abs().sum()) == 0.0


def test_turns_and_free_latents_against_torch_distributions():
    model, batch = small_model(), collate(items())
    with torch.no_grad():
        condition = model.condition(batch)
        posterior = model.encode(batch, condition, LEVEL)
        z = drawn(model, batch, condition, posterior)
        found = item_kl(model, posterior, condition, z, floor=0.03)
        prior, free = model.prior_turn(condition, posterior.shift), model.prior_free(condition)
    for item in (0, 2):
        keep = condition.mask[item]
        s = TURN_NOISE * LEVEL[item, 1]
        q = Normal(posterior.turn[item, keep], s)
        p = Normal(prior.mean[item, keep], (prior.log_var[item, keep].exp() + s.square()).sqrt())
        wanted = kl_divergence(q, p).sum()
        torch.testing.assert_close(found.turn[item], wanted, rtol=1e-9, atol=1e-12)
    q, p = (Normal(x.mean[1], (0.5 * x.log_var[1]).exp()) for x in (posterior.free, free))
    each = kl_divergence(q, p)
    torch.testing.assert_close(found.free[1], each.sum())
    torch.testing.assert_close(found.floored[1], each.clamp_min(0.03).sum())
    assert float(found.floored[1]) > float(found.free[1])


def test_a_dimension_below_the_free_bits_has_no_gradient():
    model, batch = small_model(), conformer(18, 0, templated=False)
    condition = model.condition(batch)
    posterior = model.encode(batch, condition)
    each = posterior.free.kl(model.prior_free(condition))[0].detach()
    floor = float(each.sort().values[[3, 4]].mean())
    mean = posterior.free.mean.detach().clone().requires_grad_()
    free = dataclasses.replace(posterior.free, mean=mean)
    posterior = dataclasses.replace(posterior, free=free)
    z = drawn(model, batch, condition, posterior)
    kl_terms(model, posterior, condition, z, batch.weight, floor).floored.backward()
    assert torch.equal(mean.grad[0] != 0, each > floor)
    assert int((each > floor).sum()) == 4


def test_the_penalty_weighs_the_terms_and_the_cycle_only_what_can_collapse():
    values = [torch.tensor(float(2**k)) for k in range(6)]
    kl = KLTerms(*values)
    weights = LossWeights(kl_global=0.5, kl_local=0.25)
    coded = 0.5 * kl.z_global + 0.25 * (kl.shift + kl.turn)
    rest = 0.5 * kl.floored + 0.25 * kl.sequence
    assert float(kl.penalty(weights)) == float(coded + rest)
    assert float(kl.penalty(weights, 0.3)) == pytest.approx(float(coded + 0.3 * rest))
    assert kl_values(kl) == {
        "kl_global": kl.z_global, "kl_shift": kl.shift, "kl_turn": kl.turn, "kl_free": kl.free,
    }  # fmt: skip
