"""The elastic-network prior against dense formulas and torch.distributions."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from protein_cvae.elastic import ElasticPrior
from protein_cvae.features import residue_graph
from protein_cvae.geometry.frames import rotation_from_axis_angle
from protein_cvae.kl import free_bits, gaussian_kl
from protein_cvae.latents import Gaussian, bounded


def setup(length=12, items=2, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    origin = 3 * draw(items, length, 3).cumsum(1)
    mask = torch.ones(items, length, dtype=torch.bool)
    if items > 1:
        mask[0, -3:] = False
    chain = torch.zeros(items, length, dtype=torch.int64)
    place = torch.arange(length).expand(items, -1)
    graph = residue_graph(origin, mask, chain, place, 4, 5)
    torch.manual_seed(seed)
    prior = ElasticPrior(6, 8).double()
    for parameter in prior.parameters():
        parameter.data += 0.3 * draw(*parameter.shape)
    frames = rotation_from_axis_angle(draw(items, length, 3))
    return prior, draw(items, length, 6), frames, origin, mask, graph, draw


def test_precision_is_a_network_of_springs():
    prior, c, frames, origin, mask, graph, _ = setup()
    network = prior(c, frames, origin, mask, graph)
    q = network.precision[1]
    torch.testing.assert_close(q, q.T)
    assert torch.linalg.eigvalsh(q).min() > 0
    # Springs feel differences only: a translation meets the ground springs alone.
    shift = (torch.ones(12, 1, 3, dtype=torch.float64) @ frames[1])[:, 0]
    ground = prior.ground(c)[1, :, 0]
    expected = 3 * (7 * (ground / 7).tanh()).exp().sum()
    torch.testing.assert_close(shift.flatten() @ q @ shift.flatten(), expected)
    # Blocks off the diagonal exist exactly where residues are connected.
    blocks = q.view(12, 3, 12, 3).abs().sum((1, 3)) > 0
    edges = graph.edges
    places = (graph.nodes - 12).tolist()
    ends = zip(edges.src.tolist(), edges.dst.tolist(), strict=True)
    pairs = {(places[s], places[d]) for s, d in ends}
    for i in range(12):
        for j in range(12):
            assert bool(blocks[i, j]) == (i == j or (i, j) in pairs or (j, i) in pairs)


def test_one_contact_is_the_anisotropic_network():
    prior, c, _, origin, _, _, _ = setup(length=2, items=1)
    mask = torch.ones(1, 2, dtype=torch.bool)
    chain, place = torch.zeros(1, 2, dtype=torch.int64), torch.arange(2)[None]
    prior.isotropy.data.fill_(-60.0)  # no isotropic share
    upright = torch.eye(3, dtype=torch.float64).expand(1, 2, 3, 3)
    network = prior(c, upright, origin, mask, residue_graph(origin, mask, chain, place, 2, 0))
    off = -network.precision[0, :3, 3:]
    unit = torch.nn.functional.normalize(origin[0, 1] - origin[0, 0], dim=0)
    stiffness = off.diagonal().sum()
    torch.testing.assert_close(off, stiffness * torch.outer(unit, unit), rtol=1e-6, atol=1e-9)


def test_kl_is_that_of_the_dense_normals():
    prior, c, frames, origin, mask, graph, draw = setup()
    network = prior(c, frames, origin, mask, graph)
    mean, log_var, prior_mean = draw(2, 12, 3), 0.3 * draw(2, 12) - 2, draw(2, 12, 3)
    found = network.kl(mean, log_var, prior_mean)
    for item in range(2):
        keep = mask[item].repeat_interleave(3)
        variance = log_var[item].exp().repeat_interleave(3)[keep]
        q = MultivariateNormal(mean[item].flatten()[keep], torch.diag(variance))
        p = MultivariateNormal(
            prior_mean[item].flatten()[keep],
            precision_matrix=network.precision[item][keep][:, keep],
        )
        torch.testing.assert_close(found[item], kl_divergence(q, p), rtol=1e-9, atol=1e-9)


def test_marginals_are_those_of_the_dense_normal():
    prior, c, frames, origin, mask, graph, draw = setup()
    network = prior(c, frames, origin, mask, graph)
    mean, prior_mean = draw(2, 12, 3), draw(2, 12, 3)
    tiny = torch.full((2, 12), -80.0, dtype=torch.float64)
    found = network.marginal(mean, tiny, prior_mean)
    for item in range(2):
        covariance = torch.linalg.inv(network.precision[item])
        expected = 0.0
        for i in torch.nonzero(mask[item])[:, 0].tolist():
            variance = covariance[3 * i : 3 * i + 3, 3 * i : 3 * i + 3].trace() / 3
            normal = Normal(prior_mean[item, i], variance.sqrt())
            expected -= normal.log_prob(mean[item, i]).sum() + 1.5 * math.log(2 * math.pi)
        torch.testing.assert_close(found[item], expected, rtol=1e-9, atol=1e-9)


def test_draws_have_the_covariance_of_the_network():
    prior, c, frames, origin, mask, graph, _ = setup(length=4, items=1)
    network = prior(c, frames, origin, mask, graph)
    generator = torch.Generator().manual_seed(1)
    count = 40_000
    noise = torch.randn(count, 4, 3, generator=generator, dtype=torch.float64)
    factor = network.factor.expand(count, -1, -1)
    drawn = type(network)(network.precision, factor, network.mask.expand(count, -1)).sample(noise)
    flat = drawn.flatten(1)
    covariance = torch.linalg.inv(network.precision[0])
    scale = covariance.diagonal().sqrt()
    error = (flat.T @ flat / count - covariance) / torch.outer(scale, scale)
    assert error.abs().max() < 5 / math.sqrt(count) * 2


def test_network_does_not_depend_on_the_pose():
    prior, c, frames, origin, mask, graph, draw = setup()
    turn = rotation_from_axis_angle(torch.tensor([0.3, -1.1, 0.7], dtype=torch.float64))
    here = prior(c, frames, origin, mask, graph)
    turned = prior(c, turn @ frames, origin @ turn.mT + 4.0, mask, graph)
    torch.testing.assert_close(turned.precision, here.precision, rtol=1e-9, atol=1e-9)
    noise = draw(2, 12, 3)
    torch.testing.assert_close(turned.sample(noise), here.sample(noise), rtol=1e-9, atol=1e-9)


def test_frames_only_change_the_coordinates():
    prior, c, frames, origin, mask, graph, draw = setup()
    upright = torch.eye(3, dtype=torch.float64).expand_as(frames)
    local, world = prior(c, frames, origin, mask, graph), prior(c, upright, origin, mask, graph)
    mean, log_var, zero = draw(2, 12, 3), draw(2, 12) - 3, torch.zeros(2, 12, 3).double()
    turned = (frames @ mean[..., None])[..., 0]
    for name in ("kl", "marginal"):
        torch.testing.assert_close(
            getattr(local, name)(mean, log_var, zero),
            getattr(world, name)(turned, log_var, zero),
            rtol=1e-9,
            atol=1e-9,
        )


def test_gradients_of_kl_and_draw():
    prior, c, frames, origin, mask, graph, draw = setup(length=5, items=1, seed=3)
    graph = residue_graph(
        origin, mask, torch.zeros(1, 5, dtype=torch.int64), torch.arange(5)[None], 2, 2
    )
    noise = draw(1, 5, 3)

    def score(c, origin, mean, log_var):
        network = prior(c, frames, origin, mask, graph)
        zero = torch.zeros_like(mean)
        marginal = network.marginal(mean, log_var, zero)
        return network.kl(mean, log_var, zero), marginal, network.sample(noise)

    inputs = (c, origin, draw(1, 5, 3), draw(1, 5))
    assert torch.autograd.gradcheck(score, [x.clone().requires_grad_() for x in inputs])


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
