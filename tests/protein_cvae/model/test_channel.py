"""The channel of motion against torch.distributions, SciPy and quadrature."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from protein_modes import Chains, best_amplitude, chains
from scipy.stats import kstest
from torch.distributions import Categorical, MixtureSameFamily, Normal

from protein_cvae.model.channel import TURN_NOISE, WITHIN, MotionChannel
from protein_cvae.model.elastic import AMPLITUDE, NormalModes
from protein_cvae.model.latents import Latents

GLOBAL = 5
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def channel(d_global: int = GLOBAL, learns: bool = False) -> MotionChannel:
    """With a spectrum that is not that of the elastic network."""
    torch.manual_seed(0)
    made = MotionChannel(d_global).double().requires_grad_(learns)
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data += 0.3 * noise
    return made


def level(items: int, of_global: float, of_local: float) -> torch.Tensor:
    return torch.tensor([of_global, of_local], dtype=torch.float64).expand(items, 2)


def noise_of(given: Chains, d_global: int = GLOBAL) -> Latents:
    items, length = given.mask.shape
    return Latents(
        given.draw(items, d_global), given.draw(items, length, 3), given.draw(items, length, 3),
        torch.zeros(items, 2, dtype=torch.float64),
    )  # fmt: skip


class Item:
    """One item: its coefficients that exist, their noise and their prior by torch.distributions."""

    def __init__(self, made: MotionChannel, modes: NormalModes, s: torch.Tensor, item: int):
        self.count = int((modes.variance[item] > 0).sum())
        self.vectors = modes.vectors[item, :, : self.count]
        place = torch.arange(self.count)
        self.noise = torch.where(place < made.d_global, s[item, 0], s[item, 1]).square()
        scales = made.scales(modes)
        self.variance = scales.variance[item, : self.count]
        self.weight = scales.log_weight[item, : self.count].exp()
        middle, log_width = made.amplitudes(modes)
        self.middle, self.log_width = float(middle[item]), float(log_width)

    def along(self, shift: torch.Tensor) -> torch.Tensor:
        return self.vectors.T @ shift.flatten()

    def prior(self, a: float, noisy: bool = True) -> MixtureSameFamily:
        variance = self.variance * math.exp(2 * AMPLITUDE * a)
        variance = variance + self.noise[:, None] * noisy
        each = Normal(torch.zeros_like(variance), variance.sqrt())
        return MixtureSameFamily(Categorical(self.weight), each)

    def on_amplitude(self, a: float) -> float:
        return ((a - self.middle) / math.exp(self.log_width)) ** 2 / 2

    def amplitude(self, z: torch.Tensor) -> float:
        def cost(a: float) -> float:
            return self.on_amplitude(a) - float(self.prior(a).log_prob(z).sum())

        grid = np.linspace(-6, 6, 121)
        near = grid[np.argmin([cost(a) for a in grid])]
        return best_amplitude(cost, near - 0.1, near + 0.1)


def test_the_prior_starts_near_the_elastic_network_and_its_weights_add_up():
    modes = chains().modes()
    start = MotionChannel(GLOBAL).double().requires_grad_(False).scales(modes)
    ratio = start.variance[1, 0] / modes.variance[1, 0]
    law = int((ratio - 1).abs().argmin())
    assert float(ratio[law]) == 1.0
    assert float(start.log_weight[..., law].exp().min()) > 0.9
    found = channel().scales(modes)
    torch.testing.assert_close(found.variance, start.variance)
    torch.testing.assert_close(
        found.log_weight.exp().sum(-1), torch.ones(2, 36, dtype=torch.float64)
    )
    assert not torch.allclose(found.log_weight, start.log_weight, atol=0.1)
    assert float(found.variance[modes.variance == 0].abs().sum()) == 0.0


def test_features_of_the_spectrum_are_those_of_its_text():
    given = chains()
    modes = given.modes()
    found = modes.features
    square = modes.vectors.square() * modes.variance[:, None]
    fluctuation = square.unflatten(1, (-1, 3)).sum((2, 3)).numpy()
    for item in range(2):
        count, n = int(given.rows(item).sum()), int(given.mask[item].sum())
        for k in (0, 3, count - 1):
            share = modes.vectors[item, :, k].numpy().reshape(-1, 3) ** 2
            share = share.sum(1)[given.mask[item].numpy()]
            loose = np.log(fluctuation[item][given.mask[item].numpy()])
            middle = sorted(loose)[(len(loose) - 1) // 2]  # the lower of two
            wanted = [
                0.5 * math.log(float(modes.variance[item, k])),
                math.log((k + 1) / (3 * n)),
                math.exp(-(share * np.log(share)).sum()) / n,
                math.log(n / 100),
                float((share * (loose - middle)).sum()),
            ]
            np.testing.assert_allclose(found[item, k].numpy(), wanted, rtol=1e-8)
        assert float(found[item, count:].abs().sum()) == 0.0


def test_the_amplitude_follows_the_length_within_what_was_learned():
    made = channel()
    lengths = (12, 30, 60, 300, 400)
    found = []
    for length in lengths:
        one = torch.ones(1, length, dtype=torch.bool)
        modes = dataclasses.replace(
            chains(items=1).modes(), mask=one, variance=torch.ones(1, 3 * length).double()
        )
        found.append(float(made.amplitudes(modes)[0]))
    middle, _, slope = (4.0 * made.amplitude).tolist()
    places = [max(min(math.log(n / 100), 0.9), -1.6) for n in lengths]
    assert found == pytest.approx([middle + slope * x for x in places], rel=1e-12)
    assert found[0] != found[1] != found[2]
    assert found[3] == found[4]


def test_latents_hold_the_coefficients_of_all_modes():
    given, made = chains(), channel()
    modes = given.modes()
    there = (modes.variance > 0).double()
    coefficients = given.draw(2, 36) * there
    z = made.split(modes, coefficients, given.draw(2, 12, 3), level(2, 0.1, 0.1))
    torch.testing.assert_close(made.coefficients(modes, z), coefficients, **CLOSE)
    torch.testing.assert_close(
        z.z_global, coefficients[:, :GLOBAL] / modes.variance[:, :GLOBAL].sqrt()
    )
    # z_local holds nothing of the modes of z_global.
    assert float(modes.coefficients(z.shift)[:, :GLOBAL].abs().max()) < 1e-12


@pytest.mark.parametrize("d_global", [3, GLOBAL, 60])
def test_hardly_any_noise_passes_everything(d_global: int):
    given, made = chains(), channel(d_global)
    modes, noise = given.modes(), noise_of(given, d_global)
    shift, turn = given.draw(2, 12, 3), given.draw(2, 12, 3)
    present = given.mask[..., None].double()
    shift, turn = shift * present, turn * present
    z = made.code(modes, shift, turn, level(2, 1e-9, 1e-9), noise)
    assert z.z_global.shape == (2, d_global)
    torch.testing.assert_close(made.received(modes, z), shift, rtol=0, atol=1e-6)
    torch.testing.assert_close(z.turn, turn, rtol=0, atol=1e-7)


def test_noise_has_its_level_along_every_mode_and_the_mean_has_none():
    given, made = chains(), channel()
    modes, noise, s = given.modes(), noise_of(given), level(2, 0.3, 0.7)
    shift, turn = given.draw(2, 12, 3), given.draw(2, 12, 3) * given.mask[..., None]
    mean = made.code(modes, shift, turn, s, None)
    torch.testing.assert_close(made.coefficients(modes, mean), modes.coefficients(shift), **CLOSE)
    assert torch.equal(mean.turn, turn)
    drawn = made.code(modes, shift, turn, s, noise)
    gap = made.coefficients(modes, drawn) - made.coefficients(modes, mean)
    unit = modes.coefficients(noise.shift)
    wanted = torch.cat([0.3 * unit[:, :GLOBAL], 0.7 * unit[:, GLOBAL:]], 1)
    torch.testing.assert_close(gap * (modes.variance > 0), wanted * (modes.variance > 0), **CLOSE)
    wanted = turn + TURN_NOISE * 0.7 * noise.turn * given.mask[..., None]
    torch.testing.assert_close(drawn.turn, wanted)
    assert torch.equal(drawn.level, s)


def test_kl_is_that_of_torch_distributions_at_the_most_probable_amplitude():
    given, made = chains(), channel()
    modes, s = given.modes(), level(2, 0.2, 0.5)
    shift = 3 * given.draw(2, 12, 3)
    z = made.code(modes, shift, given.draw(2, 12, 3), s, noise_of(given))
    on_global, on_local = made.kl(modes, shift, z)
    drawn = made.coefficients(modes, z)
    for item in range(2):
        it = Item(made, modes, s, item)
        seen = drawn[item, : it.count]
        own = Normal(it.along(shift[item] * given.mask[item, :, None]), it.noise.sqrt())
        a = it.amplitude(seen)
        each = own.log_prob(seen) - it.prior(a).log_prob(seen)
        wanted = each[:GLOBAL].sum() + it.on_amplitude(a) + it.log_width
        assert float(on_global[item]) == pytest.approx(float(wanted), rel=1e-4)
        assert float(on_local[item]) == pytest.approx(float(each[GLOBAL:].sum()), rel=1e-4)
        # The sum does not depend on a slightly other amplitude.
        total = float(each.sum()) + it.on_amplitude(a) + it.log_width
        assert float(on_global[item] + on_local[item]) == pytest.approx(total, rel=1e-7)


def test_nothing_passes_much_noise():
    given, made = chains(), channel()
    modes = given.modes()
    shift = given.draw(2, 12, 3) * given.mask[..., None]
    z = made.code(modes, shift, given.draw(2, 12, 3), level(2, 1e6, 1e6), noise_of(given))
    on_global, on_local = made.kl(modes, shift, z)
    # The amplitude is then the middle one, whose term is log β.
    wanted = made.amplitudes(modes)[1].expand(2)
    torch.testing.assert_close(on_global, wanted, rtol=0, atol=1e-4)
    torch.testing.assert_close(on_local, torch.zeros_like(on_local), rtol=0, atol=1e-4)
    # The prior variance over 1e12 Å² of noise of 1e6 Å.
    assert float(made.received(modes, z).abs().max()) < 0.1


def test_the_mean_rate_falls_with_the_noise():
    given, made = chains(items=1), channel()
    modes = given.modes().expand(200)
    shift, turn = given.draw(1, 12, 3).expand(200, 12, 3), torch.zeros(200, 12, 3).double()
    noise = Latents(
        given.draw(200, GLOBAL), given.draw(200, 12, 3), given.draw(200, 12, 3), turn[:, 0, :2]
    )
    rates = []
    for s in (0.05, 0.2, 0.8, 3.2):
        z = made.code(modes, shift, turn, level(200, s, s), noise)
        rates.append(float(sum(made.kl(modes, shift, z)).mean()))
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 36 * 1.0


def test_received_is_the_mean_of_the_motion_given_its_latents():
    """By quadrature along each mode, at the amplitude that makes the latents most probable."""
    given, made = chains(), channel()
    modes, s = given.modes(), level(2, 0.4, 0.9)
    z = made.code(modes, 2 * given.draw(2, 12, 3), given.draw(2, 12, 3), s, noise_of(given))
    seen = made.coefficients(modes, z)
    found = modes.coefficients(made.received(modes, z))
    for item in range(2):
        it = Item(made, modes, s, item)
        prior = it.prior(it.amplitude(seen[item, : it.count]), noisy=False)
        # Points dense where the likelihood is, which is wider than no scale is narrow.
        y = seen[item, : it.count]
        width = it.noise.sqrt()
        t = torch.linspace(-9, 9, 40_001, dtype=torch.float64)[:, None]
        for k in (0, 1, GLOBAL - 1, GLOBAL, it.count // 2):
            b = y[k] + width[k] * t[:, 0]
            one = Normal(torch.zeros(7).double(), prior.component_distribution.stddev[k])
            density = MixtureSameFamily(Categorical(it.weight[k]), one).log_prob(b)
            share = (density - 0.5 * t[:, 0].square()).exp()
            wanted = float((share * b).sum() / share.sum())
            assert float(found[item, k]) == pytest.approx(wanted, rel=1e-4, abs=1e-5)
        assert float(found[item, it.count :].abs().sum()) < 1e-10


def test_draws_have_the_mixture_along_each_mode_and_a_log_normal_amplitude():
    given, made, count = chains(length=5, items=1), channel(2), 20_000
    modes = given.modes()
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    noise = Latents(normal(count, 2), normal(count, 5, 3), normal(count, 5, 3), normal(count, 2))
    drawn = made.draw(modes.expand(count), noise)
    cooler = made.draw(modes.expand(count), noise, temperature=0.5)
    torch.testing.assert_close(cooler, 0.5 * drawn)
    it = Item(made, modes, level(1, 0.1, 0.1), 0)
    middle = it.middle + 4.0 * float(made.wider)
    assert abs(middle - it.middle) > 0.1
    a = middle + WITHIN * math.exp(it.log_width) * noise.z_global[:, 0]
    along = modes.expand(count).coefficients(drawn) * (-AMPLITUDE * a).exp()[:, None]
    prior = it.prior(0.0, noisy=False)
    # Probabilities of a mixture's draws are uniform.
    uniform = prior.cdf(along)
    assert min(kstest(u, "uniform").pvalue for u in uniform.T.numpy()) > 1e-4
    normal_scores = Normal(0.0, 1.0).icdf(uniform.clamp(1e-12, 1 - 1e-12))
    scores = torch.cat([normal_scores, noise.z_global[:, :1]], 1)
    apart = torch.corrcoef(scores.T) - torch.eye(16, dtype=torch.float64)
    assert float(apart.abs().max()) < 5 / math.sqrt(count)


@pytest.mark.parametrize("angles", [[0.3, -1.1, 0.7], [2.5, 1.5, -0.4]])
def test_codes_and_draws_do_not_depend_on_the_pose(angles: list[float]):
    given, made = chains(), channel()
    here, there = given.modes(), given.turned(angles).modes()
    shift, turn, s = given.draw(2, 12, 3), given.draw(2, 12, 3), level(2, 0.1, 0.2)
    noise = noise_of(given)
    shift = shift * given.mask[..., None]
    first, second = (made.code(modes, shift, turn, s, noise) for modes in (here, there))
    close = {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(first.z_global, second.z_global, **close)
    torch.testing.assert_close(first.shift, second.shift, **close)
    rates = made.kl(here, shift, first), made.kl(there, shift, second)
    for a, b in zip(*rates, strict=True):
        torch.testing.assert_close(a, b, **close)
    torch.testing.assert_close(made.draw(here, noise), made.draw(there, noise), **close)
    received = (made.received(here, first), made.received(there, second))
    torch.testing.assert_close(*received, **close)


def test_padding_changes_nothing():
    given, made = chains(), channel()
    cut = dataclasses.replace(
        given, frames=given.frames[:1, :9], origin=given.origin[:1, :9], mask=given.mask[:1, :9],
        place=given.place[:1, :9], chain=given.chain[:1, :9],
    )  # fmt: skip
    long, short, noise = given.modes(), cut.modes(), noise_of(given)
    alone = Latents(noise.z_global[:1], noise.shift[:1, :9], noise.turn[:1, :9], noise.level[:1])
    shift, turn, s = given.draw(2, 12, 3), given.draw(2, 12, 3), level(2, 0.1, 0.2)
    z = made.code(long, shift, turn, s, noise)
    z_alone = made.code(short, shift[:1, :9], turn[:1, :9], s[:1], alone)
    close = {"rtol": 1e-7, "atol": 1e-7}
    torch.testing.assert_close(z.z_global[:1], z_alone.z_global, **close)
    torch.testing.assert_close(z.shift[:1, :9], z_alone.shift, **close)
    torch.testing.assert_close(
        made.received(long, z)[:1, :9], made.received(short, z_alone), **close
    )
    torch.testing.assert_close(made.draw(long, noise)[:1, :9], made.draw(short, alone), **close)
    rates = made.kl(long, shift, z), made.kl(short, shift[:1, :9], z_alone)
    for a, b in zip(*rates, strict=True):
        torch.testing.assert_close(a[:1], b, **close)


def test_a_protein_with_fewer_modes_than_z_global_holds_fills_it_with_zeros():
    given, made = chains(length=3, items=1), channel(16)
    modes, s = given.modes(), level(1, 0.1, 0.1)
    shift = given.draw(1, 3, 3)
    z = made.code(modes, shift, given.draw(1, 3, 3), s, None)
    assert float(z.z_global[:, 9:].abs().sum()) == 0.0
    assert float(z.shift.abs().max()) < 1e-12
    torch.testing.assert_close(made.coefficients(modes, z), modes.coefficients(shift), **CLOSE)
    on_global, on_local = made.kl(modes, shift, z)
    assert float(on_global) != 0
    assert float(on_local) == 0.0


def test_gradients_of_the_prior_are_finite_with_absent_residues():
    given, made = chains(), channel(learns=True)
    mask = given.mask.clone()
    mask[0] = False  # and an item without template
    mask[1, 4:] = False
    modes = dataclasses.replace(given, mask=mask).modes()
    noise, s, shift = noise_of(given), level(2, 0.1, 0.3), given.draw(2, 12, 3)
    z = made.code(modes, shift, given.draw(2, 12, 3), s, noise)
    sum(x.sum() for x in made.kl(modes, shift, z)).backward()
    made.mismatch(modes, mask, shift).sum().backward()
    for name, parameter in made.named_parameters():
        assert bool(parameter.grad.isfinite().all()), name
        assert float(parameter.grad.abs().sum()) > 0, name


def test_draws_and_what_is_received_do_not_pull_on_the_prior():
    """Draws have the best geometry where they do not move; a wide prior lets noise through."""
    given, made = chains(), channel(learns=True)
    modes, noise = given.modes(), noise_of(given)
    assert not made.draw(modes, noise).requires_grad
    z = made.code(modes, given.draw(2, 12, 3), given.draw(2, 12, 3), level(2, 0.1, 0.3), noise)
    assert not made.received(modes, z).requires_grad


def test_draws_become_as_wide_as_what_moves_in_the_core():
    """δ alone is fitted, and a tail outside the core does not count."""
    given, made = chains(length=8, items=1), channel(2, learns=True)
    count, modes = 40_000, given.modes()
    many = modes.expand(count)
    generator = torch.Generator().manual_seed(3)
    shapes = ((count, 2), (count, 8, 3), (count, 8, 3), (count, 2))
    drawn = (torch.randn(x, generator=generator, dtype=torch.float64) for x in shapes)
    core = modes.mask.clone()
    core[:, 6:] = False
    assert bool(core.any())
    draws = made.draw(many, Latents(*drawn))
    mean_square = float((draws * core[..., None]).square().sum((1, 2)).mean())
    real = given.draw(1, 8, 3)
    real = real * (9 * mean_square / (real * core[..., None]).square().sum()).sqrt()
    real[:, 6:] += 40.0  # a core three times as wide as draws, and a tail far away
    made.mismatch(modes, core, real).sum().backward()
    assert [x is made.wider for x in made.parameters() if x.grad is not None] == [True]
    # ½ g² with g linear in δ: one step of Newton is the gap, log 9 over 2 τ.
    step = -float(made.wider.grad) / (2 * AMPLITUDE * 4.0) ** 2
    assert 4.0 * step == pytest.approx(math.log(9) / (2 * AMPLITUDE), abs=0.03)
    # Nothing is asked where there is no core, or nothing moves.
    for where, what in ((torch.zeros_like(core), real), (core, torch.zeros_like(real))):
        assert float(made.mismatch(modes, where, what).detach().abs().max()) == 0


def test_gradients_of_the_kl():
    """Through the most probable amplitude too, at which its own slope is 0."""
    given, made = chains(length=6, items=2), channel(4, learns=True)
    modes, s, shift = given.modes(), level(2, 0.3, 0.4), given.draw(2, 6, 3)
    z = made.code(modes, shift, given.draw(2, 6, 3), s, noise_of(given, 4))
    learned = [x for x in made.parameters() if x is not made.wider]  # that is of draws alone
    starts = [x.detach().clone() for x in learned]
    generator = torch.Generator().manual_seed(2)
    ways = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in starts]

    def value(step: float) -> torch.Tensor:
        for x, start, way in zip(learned, starts, ways, strict=True):
            x.data = start + step * way
        return sum(x.sum() for x in made.kl(modes, shift, z))

    value(0.0).backward()
    assert made.wider.grad is None
    found = sum(float((x.grad * w).sum()) for x, w in zip(learned, ways, strict=True))
    with torch.no_grad():
        wanted = float(value(1e-4) - value(-1e-4)) / 2e-4
    assert found == pytest.approx(wanted, rel=1e-4)
    assert abs(found) > 1e-3
