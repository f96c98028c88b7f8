"""The network's symmetries: pose, mirror image, padding, batch neighbours, what is withheld."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from protein_batches import (
    REFLECTION,
    TOLERANCE,
    conformer,
    moved,
    pose,
    small_model,
)

from protein_cvae.data.batch import ProteinBatch, collate
from protein_cvae.model import sampling
from protein_cvae.model.kl import ItemKL, item_kl
from protein_cvae.model.latents import Latents
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.states import Condition

# Modes of nearby softness turn into each other by more than rounding.
MODES = {"rtol": 1e-6, "atol": 1e-6}
LEVEL = torch.tensor([[0.1, 0.2]], dtype=torch.float64)


def encoded(model: ProteinCVAE, batch: ProteinBatch) -> dict[str, torch.Tensor]:
    """What is coded of a batch, and what the decoder starts from."""
    with torch.no_grad():
        condition = model.condition(batch)
        level = LEVEL.expand(len(batch), 2)
        posterior = model.encode(batch, condition, level)
        mean = model.posterior_mean(condition, posterior)
        noise = model.noise(batch, 0, 0, 0)
        drawn = model.sample_posterior(condition, posterior, noise)
        prior = model.sample_prior(batch, condition, noise)
        received = model.received(condition, drawn)
    return {
        "shift": posterior.shift, "turn": posterior.turn, "free": posterior.free.mean,
        "z_global": mean.z_global, "z_shift": mean.shift, "z_turn": mean.turn,
        "drawn z_global": drawn.z_global, "drawn shift": drawn.shift, "drawn turn": drawn.turn,
        "prior z_global": prior.z_global, "prior shift": prior.shift, "prior turn": prior.turn,
        "received shift": received[0], "received turn": received[1],
    }  # fmt: skip


def kl(
    model: ProteinCVAE, batch: ProteinBatch, condition: Condition, level: torch.Tensor
) -> ItemKL:
    """At a draw of the posterior."""
    posterior = model.encode(batch, condition, level)
    z = model.sample_posterior(condition, posterior, model.noise(batch, 0, 0, 0))
    return item_kl(model, posterior, condition, z)


def latents(model: ProteinCVAE, batch: ProteinBatch, seed: int = 5) -> Latents:
    generator = torch.Generator().manual_seed(seed)
    b, length = batch.mask.shape

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return Latents(
        draw(b, model.d_global), draw(b, length, 3), draw(b, length, 3), LEVEL.expand(b, 2)
    )


@pytest.mark.parametrize("templated", [True, False])
def test_latents_do_not_depend_on_any_pose(templated):
    model, batch = small_model(), conformer(24, 0, templated=templated)
    other = moved(batch, conformer_pose=1, template_pose=2)
    here, there = encoded(model, batch), encoded(model, other)
    for name, value in here.items():
        torch.testing.assert_close(value, there[name], **MODES, msg=lambda m, n=name: f"{n}: {m}")


def test_a_mirror_image_has_other_latents():
    model, batch = small_model(), conformer(24, 0)
    alone = moved(batch, mirror=True)
    turned = dataclasses.replace(alone, template=batch.template)
    here = encoded(model, batch)
    for other in (alone, turned):
        there = encoded(model, other)
        for name in ("shift", "turn", "z_global", "z_shift", "received shift", "received turn"):
            assert (here[name] - there[name]).abs().max() > 1e-3, name


def test_reconstruction_of_the_means_starts_at_the_conformer():
    """Nothing but the motion reaches the decoder, and hardly any of it is lost."""
    model, batch = small_model(), conformer(24, 0)
    with torch.no_grad():
        condition = model.condition(batch)
        posterior = model.encode(batch, condition)
        z = model.posterior_mean(condition, posterior)
        shift, turn = model.received(condition, z)
    assert float(posterior.shift.norm(dim=-1).mean()) > 0.3
    assert float((shift - posterior.shift).norm(dim=-1).mean()) < 0.05
    assert float((turn - posterior.turn).norm(dim=-1).mean()) < 0.05


def test_decoder_turns_and_moves_with_the_template_and_ignores_the_conformer():
    model, batch = small_model(), conformer(24, 0)
    z = latents(model, batch)
    turn, shift = pose(2)
    with torch.no_grad():
        x = model.decode(batch, model.condition(batch), z)
        other = moved(batch, conformer_pose=1, template_pose=2)
        y = model.decode(other, model.condition(other), z)
    torch.testing.assert_close(y.coordinates, x.coordinates @ turn.mT + shift, **TOLERANCE)
    torch.testing.assert_close(y.logits, x.logits, **TOLERANCE)


def test_decoder_tells_a_mirrored_template_apart():
    model, batch = small_model(), conformer(24, 0)
    z = latents(model, batch)
    mirrored = moved(batch, mirror=True)
    with torch.no_grad():
        x = model.decode(batch, model.condition(batch), z).coordinates
        y = model.decode(mirrored, model.condition(mirrored), z).coordinates
    assert (y - x @ REFLECTION).abs().max() > 1e-2


def test_decoded_residues_are_ideal_and_of_l_hand():
    model, batch = small_model(), conformer(24, 0)
    with torch.no_grad():
        x = model.decode(batch, model.condition(batch), latents(model, batch)).coordinates[0]
    n, ca, c = x.unbind(1)
    torch.testing.assert_close((n - ca).norm(dim=1), torch.full((24,), 1.458).double())
    torch.testing.assert_close((c - ca).norm(dim=1), torch.full((24,), 1.525).double())


def test_a_draw_is_a_motion_seen_through_the_noise_of_its_level():
    """Draws of two levels hold the same motion and, apart from the level, the same noise."""
    model, batch = small_model(), conformer(24, 0)
    noise = model.noise(batch, 0, 0, 0)
    with torch.no_grad():
        condition = model.condition(batch)
        modes = condition.modes

        def drawn(s: float) -> tuple[torch.Tensor, torch.Tensor]:
            level = torch.full((1, 2), s, dtype=torch.float64)
            z = model.sample_prior(batch, condition, noise, tails=False, level=level)
            assert torch.equal(z.level, level)
            return model.channel.coefficients(modes, z), z.turn

        first, second, third = drawn(0.1), drawn(0.3), drawn(0.5)
        still = model.channel.draw(modes, noise)
    for low, middle, high in zip(first, second, third, strict=True):
        torch.testing.assert_close(middle - low, high - middle, **TOLERANCE)
        assert 0.8 < float((middle - low).square().mean().sqrt()) / 0.2 < 1.2  # κ is 1 rad/Å
    motion = first[0] - (third[0] - first[0]) / 4
    torch.testing.assert_close(motion, modes.coefficients(still), **TOLERANCE)


@pytest.mark.parametrize(("temperature", "noise_of_it"), [(0.5, 0.05), (1.0, 0.1), (2.0, 0.1)])
def test_latents_carry_the_noise_that_their_level_says_at_every_temperature(
    temperature: float, noise_of_it: float
):
    model, batch = small_model(), conformer(24, 0)
    noise = model.noise(batch, 0, 0, 0)
    with torch.no_grad():
        condition = model.condition(batch)
        z = model.sample_prior(batch, condition, noise, temperature, tails=False)
        shift = model.channel.draw(condition.modes, noise, temperature)
        found = model.channel.coefficients(condition.modes, z)
    torch.testing.assert_close(z.level, torch.full_like(z.level, noise_of_it))
    carried = (found - condition.modes.coefficients(shift)).square().mean().sqrt()
    assert 0.7 < float(carried) / noise_of_it < 1.3


def test_no_temperature_is_the_template():
    model, batch = small_model(), conformer(24, 0)
    with torch.no_grad():
        condition = model.condition(batch)
        z = model.sample_prior(batch, condition, model.noise(batch, 0, 0, 0), temperature=0.0)
        shift, _ = model.received(condition, z)
    assert float(shift.abs().max()) == 0


def test_draws_do_not_pull_on_the_priors_of_the_motion():
    model, batch = small_model(), conformer(24, 0)
    condition = model.condition(batch)
    z = model.sample_prior(batch, condition, model.noise(batch, 0, 0, 0), tails=False)
    assert condition.c.requires_grad
    assert not z.shift.requires_grad
    assert not z.turn.requires_grad


@pytest.mark.parametrize("name", ["channel.wider", "channel.amplitude"])
def test_weights_of_another_form_of_the_prior_are_refused_by_name(name: str):
    model = small_model()
    weights = model.state_dict()
    weights[name] = torch.zeros(7)
    with pytest.raises(ValueError, match=rf"{name}.*train the model anew"):
        small_model().load_state_dict(weights)
    del weights[name]
    with pytest.raises(ValueError, match=rf"has no {name}"):
        small_model().load_state_dict(weights)


def test_the_motion_of_latents_is_what_was_coded_with_less_noise_than_they_carry():
    model, batch = small_model(), conformer(24, 0)
    with torch.no_grad():
        condition = model.condition(batch)
        modes, seen = condition.modes, condition.modes.mask[..., None]
        shift = model.channel.draw(modes, model.noise(batch, 0, 0, 0))
        turn = model.prior_turn(condition, shift).mean * seen
        clean = sampling.motion(model, batch, sampling.coded(model, batch, shift, turn))
        level = torch.full((1, 2), 0.5, dtype=torch.float64)
        z = model.channel.code(modes, shift, turn, level, model.noise(batch, 1, 0, 0))
        noisy = sampling.motion(model, batch, z)
        carried = modes.shift(model.channel.coefficients(modes, z)), z.turn
    for wanted, close, found, raw in zip((shift, turn), clean, noisy, carried, strict=True):
        assert float((close - wanted).norm(dim=-1).mean()) < 0.02
        assert float((found - wanted).norm()) < 0.8 * float((raw - wanted).norm())


def test_the_decoder_corrects_as_far_as_the_noise_reaches():
    model, batch = small_model(), conformer(24, 0)
    moved_by = []
    with torch.no_grad():
        condition = model.condition(batch)
        for s in (1e-9, 1e-3, 1.0):
            z = dataclasses.replace(
                latents(model, batch), level=torch.full((1, 2), s, dtype=torch.float64)
            )
            shift, _ = model.received(condition, z)
            start = condition.origin + (condition.rotation @ shift[..., None])[..., 0]
            ca = model.decode(batch, condition, z).coordinates[:, :, 1]
            moved_by.append(float((ca - start).norm(dim=-1).mean()))
    assert moved_by[0] < 1e-6 < moved_by[1] < 0.01 * moved_by[2]


@pytest.mark.parametrize("templated", [True, False])
def test_padding_and_neighbours_in_the_batch_change_nothing(templated):
    model = small_model()
    items = [conformer(18, 0, templated=templated), conformer(30, 1), conformer(25, 2)]
    joined = collate([dataclasses.replace(i, weight=i.weight.float()) for i in items])
    alone = items[0]
    z = latents(model, joined)
    first = Latents(z.z_global[:1], z.shift[:1, :18], z.turn[:1, :18], z.level[:1])
    with torch.no_grad():
        c_joined, c_alone = model.condition(joined), model.condition(alone)
        x_joined = model.decode(joined, c_joined, z)
        x_alone = model.decode(alone, c_alone, first)
        coil = model.coil.nll(joined, c_joined)[:1], model.coil.nll(alone, c_alone)
        level = LEVEL.expand(3, 2)
        kl_joined, kl_alone = kl(model, joined, c_joined, level), kl(model, alone, c_alone, LEVEL)
    pairs = {
        "coordinates": (x_joined.coordinates[:1, :18], x_alone.coordinates),
        "logits": (x_joined.logits[:1, :18], x_alone.logits),
        "coil": coil,
    }
    pairs |= {name: (nats[:1], getattr(kl_alone, name)) for name, nats in vars(kl_joined).items()}
    together, apart = encoded(model, joined), encoded(model, alone)
    for name, value in apart.items():
        of_residues = value.dim() == 3
        pairs[name] = together[name][:1, :18] if of_residues else together[name][:1], value
    for name, (a, b) in pairs.items():
        torch.testing.assert_close(a, b, **MODES, msg=lambda m, n=name: f"{n}: {m}")


def test_withheld_sequence_and_template_are_not_used():
    model = small_model()
    batch = conformer(24, 0, templated=False, sequence=False)
    other = dataclasses.replace(
        batch,
        aatype=(batch.aatype + 3) % 20,
        template=conformer(24, 9).template,
        embedding=batch.embedding,
    )
    here, there = encoded(model, batch), encoded(model, other)
    for name, value in here.items():
        torch.testing.assert_close(value, there[name], rtol=0, atol=0)
    condition = model.condition(batch)
    found = kl(model, batch, condition, LEVEL)
    assert found.z_global.item() == found.shift.item() == found.turn.item() == 0.0
    assert model.coil.nll(batch, condition).item() == 0.0


def test_a_withheld_sequence_is_not_used_beside_a_template():
    model = small_model()
    batch = conformer(24, 0, sequence=False)
    other = dataclasses.replace(batch, aatype=(batch.aatype + 3) % 20)
    here, there = encoded(model, batch), encoded(model, other)
    for name, value in here.items():
        torch.testing.assert_close(value, there[name], rtol=0, atol=0)


def test_missing_residues_neither_enter_nor_poison():
    model, batch = small_model(), conformer(24, 0)
    mask = batch.mask.clone()
    mask[0, 10:12] = False
    holed = dataclasses.replace(batch, mask=mask)
    junk = dataclasses.replace(
        holed, coordinates=torch.where(mask[..., None, None], batch.coordinates, 1e3)
    )
    here, there = encoded(model, holed), encoded(model, junk)
    for name, value in here.items():
        assert bool(value.isfinite().all()), name
        torch.testing.assert_close(value, there[name], **TOLERANCE)
