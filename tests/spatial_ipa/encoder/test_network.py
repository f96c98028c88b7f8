"""Trunk and adapter."""

from __future__ import annotations

import pytest
import torch

from spatial_ipa.encoder.frozen import (
    ScRNAAdapter,
    SharedEncoder,
)


def test_shapes_and_parameter_count() -> None:
    encoder = SharedEncoder(50)
    assert encoder(torch.randn(7, 50)).shape == (7, 128)
    expected = 50 * 512 + 512 + 512 * 256 + 256 + 256 * 128 + 128
    assert sum(p.numel() for p in encoder.parameters()) == expected


@pytest.mark.parametrize("rank", [1, 5, 8])
def test_linear_start_computes_exactly_the_linear_map(rank: int) -> None:
    encoder = SharedEncoder(30, 8, (20, 16)).double()
    components = torch.randn(30, rank, dtype=torch.float64)
    encoder.set_linear(components, torch.Generator().manual_seed(1))
    x = 3 * torch.randn(11, 30, dtype=torch.float64)
    h = encoder(x)
    torch.testing.assert_close(h[:, :rank], x @ components)
    assert torch.equal(h[:, rank:], torch.zeros(11, 8 - rank, dtype=torch.float64))


def test_linear_start_can_be_trained_away_from() -> None:
    encoder = SharedEncoder(30, 8, (20, 16))
    encoder.set_linear(torch.randn(30, 8), torch.Generator().manual_seed(1))
    encoder(torch.randn(11, 30)).square().mean().backward()
    for name, p in encoder.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name


def test_linear_start_refuses_too_many_components() -> None:
    with pytest.raises(ValueError, match="r <= 8"):
        SharedEncoder(30, 12, (20, 16)).set_linear(torch.randn(30, 9), torch.Generator())


def test_dropout_only_with_a_generator_and_repeatable() -> None:
    encoder, x = SharedEncoder(30, 8, (20, 16), 0.5), torch.randn(5, 30)
    assert torch.equal(encoder(x), encoder(x))
    a, b, c = (encoder(x, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_adapter_is_the_identity_at_the_start_and_trainable() -> None:
    adapter, x = ScRNAAdapter(30, 4), torch.randn(5, 30)
    assert torch.equal(adapter(x), x)
    (adapter(x) * torch.randn(5, 30)).sum().backward()
    for p in (adapter.log_scale, adapter.shift, adapter.up):
        assert p.grad is not None
        assert p.grad.abs().sum() > 0
