"""The elastic-network prior against dense formulas and torch.distributions."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from protein_cvae.geometry.frames import rotation_from_axis_angle
from protein_cvae.model.elastic import (
    AMPLITUDE,
    ElasticNetwork,
    elastic_network,
    most_probable_amplitude,
)
from protein_cvae.model.kl import free_bits
from protein_cvae.model.latents import Gaussian, bounded, gaussian_kl
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.settings import NetworkSettings


def setup(length=12, items=2, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    step = torch.nn.functional.normalize(draw(items, length, 3) + 0.7, dim=-1)
    origin = 3.8 * step.cumsum(1)
    mask = torch.ones(items, length, dtype=torch.bool)
    if items > 1:
        mask[0, -3:] = False
    chain = torch.zeros(items, length, dtype=torch.int64)
    chain[:, length // 2 :] = 1
    place = torch.arange(length).expand(items, -1)
    frames = rotation_from_axis_angle(draw(items, length, 3))
    return frames, origin, mask, place, chain, draw


def upright(frames):
    return torch.eye(3, dtype=frames.dtype).expand_as(frames)


def dense_precision(x, chain):
    """The formula of the module, residue by residue, without frames."""
    n = len(x)
    d = np.linalg.norm(x[:, None] - x[None], axis=-1)
    contacts = [
        max(1.0, sum(math.exp(-(d[i, j] ** 2) / (2 * 7.4**2)) for j in range(n) if j != i))
        for i in range(n)
    ]
    q, stiffness = np.zeros((3 * n, 3 * n)), np.zeros(n)
    for i in range(n):
        for j in range(i):
            k = (max(d[i, j], 2.5) / 5) ** -6 * (contacts[i] * contacts[j] / 100) ** 2.5
            if chain[i] == chain[j] and i - j <= 3:
                k *= math.exp((2.0, 1.0, 0.5)[i - j - 1])
            u = (x[i] - x[j]) / d[i, j]
            block = k * (0.05 * np.eye(3) + 0.95 * np.outer(u, u))
            for a, b, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
                q[3 * a : 3 * a + 3, 3 * b : 3 * b + 3] += sign * block
            stiffness[[i, j]] += k
    weight = stiffness / stiffness.mean()
    motions = np.zeros((3 * n, 6))
    centre = (weight[:, None] * x).sum(0) / weight.sum()
    for i in range(n):
        for axis in range(3):
            e = np.eye(3)[axis]
            motions[3 * i : 3 * i + 3, axis] = e
            motions[3 * i : 3 * i + 3, 3 + axis] = np.cross(e, x[i] - centre)
    w = np.diag(np.repeat(weight, 3))
    held = w @ motions @ np.linalg.inv(motions.T @ w @ motions) @ motions.T @ w
    return (q + stiffness.mean() * held) / 0.6


def test_precision_is_the_formula():
    frames, origin, mask, place, chain, _ = setup()
    network = elastic_network(upright(frames), origin, mask, place, chain)
    for item in range(2):
        keep = mask[item]
        wanted = dense_precision(origin[item, keep].numpy(), chain[item, keep].numpy())
        found = network.precision[item]
        rows = keep.repeat_interleave(3)
        np.testing.assert_allclose(found[rows][:, rows], wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            found[~rows][:, ~rows], torch.eye(int((~rows).sum()), dtype=torch.float64)
        )
        assert float(found[rows][:, ~rows].abs().sum()) == 0.0


def test_kl_is_that_of_the_dense_normals_at_the_most_probable_amplitude():
    frames, origin, mask, place, chain, draw = setup()
    network = elastic_network(frames, origin, mask, place, chain)
    mean, log_var, prior_mean = draw(2, 12, 3), 0.3 * draw(2, 12) - 2, 0.1 * draw(2, 12, 3)
    found = network.kl(mean, log_var, prior_mean)
    for item in range(2):
        keep = mask[item].repeat_interleave(3)
        variance = log_var[item].exp().repeat_interleave(3)[keep]
        q = MultivariateNormal(mean[item].flatten()[keep], torch.diag(variance))
        inside = network.precision[item][keep][:, keep]

        def nats(a, q=q, inside=inside, item=item, keep=keep):
            precision = inside * math.exp(-2 * AMPLITUDE * a)
            p = MultivariateNormal(prior_mean[item].flatten()[keep], precision_matrix=precision)
            return float(kl_divergence(q, p)) + a * a / 2

        best = minimize_scalar(nats, bounds=(-10, 10), method="bounded", options={"xatol": 1e-8})
        assert float(found[item]) == pytest.approx(best.fun, rel=1e-8)


@pytest.mark.parametrize("energy", [0.0, 1e-6, 1.0, 30.0, 1e4, 1e12])
def test_most_probable_amplitude_has_no_slope(energy):
    e, count = torch.tensor([energy], dtype=torch.float64), torch.tensor([30.0]).double()
    a = most_probable_amplitude(e, count)
    slope = a - AMPLITUDE * (e * (-2 * AMPLITUDE * a).exp() - count)
    assert abs(float(slope)) < 1e-9


def test_draws_have_the_covariance_of_the_network_and_a_log_normal_amplitude():
    frames, origin, mask, place, chain, _ = setup(length=5, items=1)
    network = elastic_network(frames, origin, mask, place, chain)
    generator = torch.Generator().manual_seed(1)
    count = 40_000
    noise = torch.randn(count, 5, 3, generator=generator, dtype=torch.float64)
    many = ElasticNetwork(
        **{
            f.name: getattr(network, f.name).expand(count, *getattr(network, f.name).shape[1:])
            for f in dataclasses.fields(network)
        }
    )
    flat = many.sample(noise).flatten(1)
    a = noise.flatten(1) @ network.moved[0]
    flat = flat * (-AMPLITUDE * a).exp()[:, None]
    # One direction of translation is spent on the amplitude.
    factor = network.factor[0]
    spent = torch.linalg.solve_triangular(factor.mT, network.moved[0][:, None], upper=True)
    covariance = torch.linalg.inv(network.precision[0]) - spent @ spent.mT
    scale = covariance.diagonal().sqrt()
    error = (flat.T @ flat / count - covariance) / torch.outer(scale, scale)
    assert error.abs().max() < 10 / math.sqrt(count)
    # What was spent is a pure translation in the system of the template, and independent.
    world = (frames[0] @ spent.view(5, 3, 1))[..., 0]
    torch.testing.assert_close(world, world[:1].expand(5, 3))
    assert (flat * a[:, None]).mean(0).div(scale).abs().max() < 5 / math.sqrt(count)


def test_network_does_not_depend_on_the_pose():
    frames, origin, mask, place, chain, draw = setup()
    here = elastic_network(frames, origin, mask, place, chain)
    noise = draw(2, 12, 3)
    for angles in ([0.3, -1.1, 0.7], [2.5, 1.5, -0.4], [-3.0, 0.1, 0.2]):
        turn = rotation_from_axis_angle(torch.tensor(angles, dtype=torch.float64))
        turned = elastic_network(turn @ frames, origin @ turn.mT + 4.0, mask, place, chain)
        torch.testing.assert_close(turned.precision, here.precision, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(turned.sample(noise), here.sample(noise), rtol=1e-9, atol=1e-9)


def test_frames_only_change_the_coordinates():
    frames, origin, mask, place, chain, draw = setup()
    local = elastic_network(frames, origin, mask, place, chain)
    world = elastic_network(upright(frames), origin, mask, place, chain)
    mean, log_var, zero = draw(2, 12, 3), draw(2, 12) - 3, torch.zeros(2, 12, 3).double()
    turned = (frames @ mean[..., None])[..., 0]
    torch.testing.assert_close(
        local.kl(mean, log_var, zero), world.kl(turned, log_var, zero), rtol=1e-9, atol=1e-9
    )


def test_tails_are_softer_than_the_core():
    # A compact cube of residues with a straight tail.
    grid = torch.cartesian_prod(*[torch.arange(3.0, dtype=torch.float64)] * 3) * 3.8
    tail = torch.tensor([[3.8 * (3 + i), 7.6, 7.6] for i in range(5)], dtype=torch.float64)
    origin = torch.cat([grid, tail])[None]
    n = origin.shape[1]
    frames = torch.eye(3, dtype=torch.float64).expand(1, n, 3, 3)
    mask = torch.ones(1, n, dtype=torch.bool)
    place, chain = torch.arange(n)[None], torch.zeros(1, n, dtype=torch.int64)
    variance = elastic_network(frames, origin, mask, place, chain).variance()[0]
    assert bool((variance[28:] > variance[27:-1]).all())
    assert float(variance[-1]) > 10 * float(variance[:27].median())


@pytest.mark.parametrize("present", [0, 1, 2])
def test_hardly_any_residue_gives_a_finite_network(present):
    frames, origin, mask, place, chain, draw = setup(items=1)
    mask = torch.zeros_like(mask)
    mask[0, :present] = True
    network = elastic_network(frames, origin, mask, place, chain)
    drawn = network.sample(draw(1, 12, 3))
    assert bool(drawn.isfinite().all())
    assert float(drawn[~mask].abs().sum()) == 0.0
    kl = network.kl(0.1 * draw(1, 12, 3), draw(1, 12) - 3, torch.zeros(1, 12, 3).double())
    assert bool(kl.isfinite().all())
    assert (float(kl) == 0.0) == (present == 0)


def test_a_residue_far_away_is_finite_in_single_precision():
    frames, origin, mask, place, chain, draw = setup(items=1)
    origin[0, -1] += 300.0
    network = elastic_network(frames.float(), origin.float(), mask, place, chain)
    assert bool(network.factor.isfinite().all())
    assert bool(network.sample(draw(1, 12, 3).float()).isfinite().all())


def test_gradients_of_the_kl():
    frames, origin, mask, place, chain, draw = setup(length=5, items=1, seed=3)
    network = elastic_network(frames, origin, mask, place, chain)
    inputs = (draw(1, 5, 3), draw(1, 5), 0.1 * draw(1, 5, 3))
    assert torch.autograd.gradcheck(network.kl, [x.clone().requires_grad_() for x in inputs])


def test_checkpoints_with_a_learned_network_are_refused():
    model = ProteinCVAE(NetworkSettings(0, 16, 1, 1, 2, 16, 0.0, 4, 8, 8, 1, 4, 4))
    state = model.state_dict() | {"elastic.isotropy": torch.zeros(())}
    with pytest.raises(ValueError, match=r"elastic\.isotropy .* train the model anew"):
        model.load_state_dict(state)


@pytest.mark.parametrize("seed", [0, 1])
def test_gaussian_kl_is_the_closed_form(seed):
    generator = torch.Generator().manual_seed(seed)
    m1, v1, m2, v2 = torch.randn(4, 7, 3, generator=generator, dtype=torch.float64)
    expected = kl_divergence(Normal(m1, (v1 / 2).exp()), Normal(m2, (v2 / 2).exp()))
    torch.testing.assert_close(gaussian_kl(m1, v1, m2, v2), expected)


def test_free_bits_leave_a_collapsed_dimension_without_gradient():
    kl = torch.tensor([[0.001, 0.5], [0.003, 0.7]], requires_grad=True)
    kept = free_bits(kl, 0.02)
    torch.testing.assert_close(kept, torch.tensor([0.02, 0.6]))
    kept.sum().backward()
    torch.testing.assert_close(kl.grad, torch.tensor([[0.0, 0.5], [0.0, 0.5]]))


def test_log_variance_is_bounded_and_sampling_is_reparameterised():
    x = torch.tensor([-100.0, -4.0, 100.0])
    torch.testing.assert_close(bounded(x), torch.tensor([-12.0, -4.0, 4.0]), atol=1e-4, rtol=0)
    noise = torch.randn(3, generator=torch.Generator().manual_seed(0))
    drawn = Gaussian(x, torch.tensor([0.0, 2.0, -2.0])).sample(noise, temperature=0.5)
    torch.testing.assert_close(drawn, x + 0.5 * torch.tensor([0.0, 1.0, -1.0]).exp() * noise)
