"""The channel of motion against torch.distributions, SciPy and dense linear algebra."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from protein_modes import Chains, chains
from scipy.optimize import minimize_scalar
from scipy.stats import kstest
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from protein_cvae.model.channel import (
    SILENT,
    TURN_NOISE,
    MotionChannel,
    RateSettings,
    expected_error,
    levels,
    most_probable_amplitude,
    spectrum_features,
)
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


def dense(vectors: torch.Tensor, diagonal: torch.Tensor) -> torch.Tensor:
    return vectors @ torch.diag(diagonal) @ vectors.T


def best_amplitude(cost, **options: float) -> tuple[float, float]:
    found = minimize_scalar(cost, bounds=(-6.4, 6.4), method="bounded", options={"xatol": 1e-9})
    return float(found.x), float(found.fun)


class Dense:
    """Item by item, over present coordinates: modes as columns, v at a = 0 and s² of each."""

    def __init__(self, made: MotionChannel, modes: NormalModes, s: torch.Tensor, item: int):
        self.count = int((modes.variance[item] > 0).sum())
        rows = modes.mask[item].repeat_interleave(3)
        self.rows = rows
        self.vectors = modes.vectors[item, rows][:, : self.count]
        self.base = made.variance(modes)[item, : self.count]
        place = torch.arange(self.count)
        self.noise = torch.where(place < made.d_global, s[item, 0], s[item, 1]).square()

    def prior(self, a: float) -> torch.Tensor:
        return self.base * math.exp(2 * AMPLITUDE * a)


def test_the_spectrum_starts_as_that_of_the_elastic_network_and_is_bounded():
    modes = chains().modes()
    torch.testing.assert_close(MotionChannel(GLOBAL).double().variance(modes), modes.variance)
    made = channel()
    assert not torch.allclose(made.variance(modes), modes.variance, rtol=0.1)
    for parameter in made.parameters():
        parameter.data *= 100
    found = made.variance(modes)
    there = modes.variance > 0
    change = (found[there] / modes.variance[there]).log()
    assert float(change.abs().max()) <= 3 + 1e-9
    assert float(found[~there].abs().max()) == 0.0


def test_features_of_the_spectrum_are_those_of_its_text():
    given = chains()
    modes = given.modes()
    found = spectrum_features(modes)
    for item in range(2):
        count, n = int(given.rows(item).sum()), int(given.mask[item].sum())
        for k in (0, 3, count - 1):
            share = modes.vectors[item, :, k].numpy().reshape(-1, 3) ** 2
            share = share.sum(1)[given.mask[item].numpy()]
            wanted = [
                0.5 * math.log(float(modes.variance[item, k])),
                math.log((k + 1) / (3 * n)),
                math.exp(-(share * np.log(share)).sum()) / n,
                math.log(n / 100),
            ]
            np.testing.assert_allclose(found[item, k].numpy(), wanted, rtol=1e-8)
        assert float(found[item, count:].abs().sum()) == 0.0


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


def test_kl_is_that_of_the_dense_normals_at_the_most_probable_amplitude():
    given, made = chains(), channel()
    modes, s = given.modes(), level(2, 0.2, 0.5)
    shift = 3 * given.draw(2, 12, 3)
    found = made.kl(modes, shift, s)
    for item in range(2):
        it = Dense(made, modes, s, item)
        q = MultivariateNormal(shift[item].flatten()[it.rows], dense(it.vectors, it.noise))

        def nats(a: float, q=q, it=it) -> float:
            total = dense(it.vectors, it.prior(a) + it.noise)
            p = MultivariateNormal(torch.zeros(len(total), dtype=torch.float64), total)
            return float(kl_divergence(q, p)) + a * a / 2

        a, nats_there = best_amplitude(nats)
        assert float(found[0][item] + found[1][item]) == pytest.approx(nats_there, rel=1e-7)
        b = it.vectors.T @ shift[item].flatten()[it.rows]
        total = (it.prior(a) + it.noise).sqrt()
        each = kl_divergence(Normal(b, it.noise.sqrt()), Normal(torch.zeros_like(b), total))
        assert float(found[0][item]) == pytest.approx(
            float(each[:GLOBAL].sum()) + a * a / 2, rel=1e-5
        )
        assert float(found[1][item]) == pytest.approx(float(each[GLOBAL:].sum()), rel=1e-5)


def test_nothing_passes_much_noise():
    given, made = chains(), channel()
    modes = given.modes()
    shift, turn = given.draw(2, 12, 3), given.draw(2, 12, 3)
    before = math.inf
    for s in (0.1, 1.0, 10.0, 1e3, 1e6):
        on_global, on_local = made.kl(modes, shift, level(2, s, s))
        total = float((on_global + on_local).sum())
        assert 0 <= total < before
        before = total
    assert before < 1e-8
    z = made.code(modes, shift, turn, level(2, 1e6, 1e6), noise_of(given))
    # The prior variance over 1e12 Å² of noise of 1e6 Å.
    assert float(made.received(modes, z).abs().max()) < 1e-3


def test_a_silent_half_leaves_the_rate_of_the_other():
    """z_global alone: only its modes tell the amplitude."""
    given, made = chains(), channel()
    modes, s = given.modes(), level(2, 0.02, 1e6)
    shift = 3 * given.draw(2, 12, 3)
    on_global, on_local = made.kl(modes, shift, s)
    assert float(on_local.abs().max()) < 1e-8
    for item in range(2):
        it = Dense(made, modes, s, item)
        b = (it.vectors.T @ shift[item].flatten()[it.rows])[:GLOBAL]

        def nats(a: float, b=b, it=it) -> float:
            total = (it.prior(a) + it.noise)[:GLOBAL].sqrt()
            q = Normal(b, torch.full_like(b, 0.02))
            return float(kl_divergence(q, Normal(torch.zeros_like(b), total)).sum()) + a * a / 2

        assert float(on_global[item]) == pytest.approx(best_amplitude(nats)[1], rel=1e-7)


def test_received_is_the_mean_of_the_motion_given_its_latents():
    """By dense linear algebra, at the amplitude that makes the latents most probable."""
    given, made = chains(), channel()
    modes, s = given.modes(), level(2, 0.4, 0.9)
    z = made.code(modes, 2 * given.draw(2, 12, 3), given.draw(2, 12, 3), s, noise_of(given))
    seen = modes.shift(made.coefficients(modes, z))
    found = made.received(modes, z)
    for item in range(2):
        it = Dense(made, modes, s, item)
        y = seen[item].flatten()[it.rows]
        of_noise = dense(it.vectors, it.noise)

        def cost(a: float, y=y, it=it, of_noise=of_noise) -> float:
            total = dense(it.vectors, it.prior(a)) + of_noise
            p = MultivariateNormal(torch.zeros_like(y), total)
            return a * a / 2 - float(p.log_prob(y))

        of_motion = dense(it.vectors, it.prior(best_amplitude(cost)[0]))
        wanted = of_motion @ torch.linalg.solve(of_motion + of_noise, y)
        torch.testing.assert_close(found[item].flatten()[it.rows], wanted, rtol=1e-6, atol=1e-6)
        assert float(found[item].flatten()[~it.rows].abs().sum()) < 1e-10


@pytest.mark.parametrize("energy", [0.0, 1e-6, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("noise", [0.0, 0.04])
def test_most_probable_amplitude_is_that_of_scipy(energy: float, noise: float):
    base = torch.tensor([[2.0, 1.0, 0.3, 0.0]], dtype=torch.float64)
    e = energy * torch.tensor([[1.0, 0.2, 0.1, 5.0]], dtype=torch.float64)
    found = most_probable_amplitude(e, base, torch.full_like(base, noise))

    def cost(a: float) -> float:
        v = base[0, :3].numpy() * math.exp(2 * AMPLITUDE * a) + noise
        return float(0.5 * (np.log(v) + e[0, :3].numpy() / v).sum() + a * a / 2)

    a, least = best_amplitude(cost)
    assert cost(float(found)) <= least + 1e-10
    assert float(found) == pytest.approx(a, abs=1e-5)


def test_draws_have_the_covariance_of_the_formula_and_a_log_normal_amplitude():
    given, made, count = chains(length=5, items=1), channel(2), 20_000
    modes = given.modes()
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    noise = Latents(normal(count, 2), normal(count, 5, 3), normal(count, 5, 3), normal(count, 2))
    drawn = made.draw(modes.expand(count), noise)
    cooler = made.draw(modes.expand(count), noise, temperature=0.5)
    torch.testing.assert_close(cooler, 0.5 * drawn)
    a = noise.z_global[:, 0]
    flat = drawn.flatten(1) * (-AMPLITUDE * a).exp()[:, None]
    covariance = dense(modes.vectors[0], made.variance(modes)[0])
    scale = covariance.diagonal().sqrt()
    # Variance of each entry of the moment of normal numbers (Isserlis).
    error = ((torch.outer(scale, scale).square() + covariance.square()) / count).sqrt()
    assert float(((flat.T @ flat / count - covariance) / error).abs().max()) < 5
    assert float((flat.mean(0) / scale).abs().max()) < 5 / math.sqrt(count)
    # Amplitude and direction are independent.
    assert float((flat * a[:, None]).mean(0).div(scale).abs().max()) < 5 / math.sqrt(count)


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
    for a, b in zip(made.kl(here, shift, s), made.kl(there, shift, s), strict=True):
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
    for a, b in zip(made.kl(long, shift, s), made.kl(short, shift[:1, :9], s[:1]), strict=True):
        torch.testing.assert_close(a[:1], b, **close)


def test_a_protein_with_fewer_modes_than_z_global_holds_fills_it_with_zeros():
    given, made = chains(length=3, items=1), channel(16)
    modes, s = given.modes(), level(1, 0.1, 0.1)
    shift = given.draw(1, 3, 3)
    z = made.code(modes, shift, given.draw(1, 3, 3), s, None)
    assert float(z.z_global[:, 9:].abs().sum()) == 0.0
    assert float(z.shift.abs().max()) < 1e-12
    torch.testing.assert_close(made.coefficients(modes, z), modes.coefficients(shift), **CLOSE)
    on_global, on_local = made.kl(modes, shift, s)
    assert float(on_global) > 0
    assert float(on_local) == 0.0


@pytest.mark.parametrize("what", ["kl", "draw", "received"])
def test_gradients_of_the_spectrum_are_finite_with_absent_residues(what: str):
    given, made = chains(), channel(learns=True)
    mask = given.mask.clone()
    mask[0] = False  # and an item without template
    mask[1, 4:] = False
    modes, noise, s = (
        dataclasses.replace(given, mask=mask).modes(),
        noise_of(given),
        level(2, 0.1, 0.3),
    )
    shift = given.draw(2, 12, 3)
    if what == "kl":
        out = sum(x.sum() for x in made.kl(modes, shift, s))
    elif what == "draw":
        out = made.draw(modes, noise).square().sum()
    else:
        z = made.code(modes, shift, given.draw(2, 12, 3), s, noise)
        out = made.received(modes, z).square().sum()
    out.backward()
    for name, parameter in made.named_parameters():
        assert bool(parameter.grad.isfinite().all()), name
        assert float(parameter.grad.abs().sum()) > 0, name


@pytest.mark.parametrize("what", ["kl", "draw"])
def test_gradients_of_the_spectrum(what: str):
    """Of the KL through the most probable amplitude too, at which its own slope is 0."""
    given, made = chains(length=6, items=2), channel(4, learns=True)
    modes, noise, s = given.modes(), noise_of(given, 4), level(2, 0.3, 0.4)
    shift = given.draw(2, 6, 3)
    starts = [x.detach().clone() for x in made.parameters()]
    generator = torch.Generator().manual_seed(2)
    ways = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in starts]

    def value(step: float) -> torch.Tensor:
        for x, start, way in zip(made.parameters(), starts, ways, strict=True):
            x.data = start + step * way
        if what == "draw":
            return made.draw(modes, noise).pow(3).sum()
        return sum(x.sum() for x in made.kl(modes, shift, s))

    value(0.0).backward()
    found = sum(float((x.grad * w).sum()) for x, w in zip(made.parameters(), ways, strict=True))
    with torch.no_grad():
        wanted = float(value(1e-5) - value(-1e-5)) / 2e-5
    assert found == pytest.approx(wanted, rel=1e-6)
    assert abs(found) > 1e-3


def test_levels_are_log_uniform_and_a_share_is_silent():
    rate = RateSettings(low=0.05, high=0.8, silent=0.25)
    generator = torch.Generator().manual_seed(0)
    drawn = levels(torch.randn(4000, 3, generator=generator, dtype=torch.float64), rate)
    silent = drawn[:, 1] == SILENT
    share = float(silent.double().mean())
    assert abs(share - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 4000)
    for values in (drawn[:, 0], drawn[~silent, 1]):
        uniform = (values / 0.05).log() / math.log(0.8 / 0.05)
        assert kstest(uniform.numpy(), "uniform").pvalue > 1e-3
    # Both noises and silence are independent.
    assert abs(np.corrcoef(drawn[~silent].log().numpy().T)[0, 1]) < 5 / math.sqrt(3000)


def test_errors_count_less_where_noise_makes_them_and_fully_without_template():
    s = torch.tensor([[1e-6, 1e-6], [0.2, 0.0], [1.0, 30.0], [1.0, 30.0]], dtype=torch.float64)
    found = expected_error(s, torch.tensor([True, True, True, False]))
    wanted = torch.tensor([1.0, 0.5, 0.04 / 2.04, 1.0], dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 0.0}, "rate.low and rate.high"),
        ({"low": 0.5, "high": 0.4}, "rate.low and rate.high"),
        ({"high": 31.0}, "rate.low and rate.high"),
        ({"silent": -0.1}, "rate.silent"),
        ({"silent": 1.1}, "rate.silent"),
        ({"judged": 0.0}, "rate.judged"),
        ({"judged": 31.0}, "rate.judged"),
    ],
)
def test_rates_out_of_range_are_refused(options: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        RateSettings(**options)
