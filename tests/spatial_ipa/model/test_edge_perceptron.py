"""The perceptron by blocks against the layers themselves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from spatial_ipa.model.edge_perceptron import edge_perceptron


def layers(features: int = 9, hidden: int = 32, heads: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    last = nn.Linear(hidden, heads, bias=False)
    return nn.Sequential(nn.Linear(features, hidden), nn.GELU(), last)


@pytest.mark.parametrize("rows", [0, 1, 4096, 4097, 10_000])
def test_values_and_gradients_are_those_of_the_layers(rows: int) -> None:
    mlp = layers().double()
    x = torch.randn(rows, 9, dtype=torch.float64)
    grad = torch.randn(rows, 4, dtype=torch.float64)
    found = []
    for run in (edge_perceptron, lambda mlp, x: mlp(x)):
        mlp.zero_grad()
        at = x.clone().requires_grad_()
        out = run(mlp, at)
        out.backward(grad)
        found.append([out.detach(), at.grad, *(p.grad for p in mlp.parameters())])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_gradcheck() -> None:
    mlp = layers(3, 5, 2).double()
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda x, *_: edge_perceptron(mlp, x), (x, *mlp.parameters()))


def test_under_autocast_it_is_the_layers() -> None:
    mlp, x = layers(), torch.randn(50, 9)
    with torch.autocast("cpu", torch.bfloat16):
        out = edge_perceptron(mlp, x)
        assert out.dtype == torch.bfloat16
        assert torch.equal(out, mlp(x))
    out.float().sum().backward()
    assert all(p.grad is not None for p in mlp.parameters())
