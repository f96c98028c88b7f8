"""The Gaussians of the latents."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from protein_cvae.model.latents import Gaussian, Latents, bounded, gaussian_kl


@pytest.mark.parametrize("seed", [0, 1])
def test_gaussian_kl_is_the_closed_form(seed: int):
    generator = torch.Generator().manual_seed(seed)
    m1, v1, m2, v2 = torch.randn(4, 7, 3, generator=generator, dtype=torch.float64)
    expected = kl_divergence(Normal(m1, (v1 / 2).exp()), Normal(m2, (v2 / 2).exp()))
    torch.testing.assert_close(gaussian_kl(m1, v1, m2, v2), expected)
    torch.testing.assert_close(Gaussian(m1, v1).kl(Gaussian(m2, v2)), expected)


def test_log_variance_is_bounded_and_sampling_is_reparameterised():
    x = torch.tensor([-100.0, -4.0, 100.0])
    torch.testing.assert_close(bounded(x), torch.tensor([-12.0, -4.0, 4.0]), atol=1e-4, rtol=0)
    noise = torch.randn(3, generator=torch.Generator().manual_seed(0))
    drawn = Gaussian(x, torch.tensor([0.0, 2.0, -2.0])).sample(noise, temperature=0.5)
    torch.testing.assert_close(drawn, x + 0.5 * torch.tensor([0.0, 1.0, -1.0]).exp() * noise)


def test_latents_split_and_join_without_loss():
    generator = torch.Generator().manual_seed(0)
    shapes = (5, 4), (5, 6, 3), (5, 6, 3), (5, 2)
    z = Latents(*(torch.randn(shape, generator=generator) for shape in shapes))
    parts = list(z.split(2))
    assert [len(part) for part in parts] == [2, 2, 1]
    joined = Latents.cat(parts)
    again = z.repeat(2)
    for name in ("z_global", "shift", "turn", "level"):
        assert torch.equal(getattr(joined, name), getattr(z, name))
        assert torch.equal(getattr(again, name)[5:], getattr(z, name))
    assert z.z_local.shape == (5, 6, 6)
    assert torch.equal(z.z_local[..., :3], z.shift)
    assert torch.equal(z.z_local[..., 3:], z.turn)
