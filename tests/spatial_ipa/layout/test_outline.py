"""Proportions of layouts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from common.graph.edges import EdgeList
from spatial_ipa.geometry.gauge import gauge_fix
from spatial_ipa.layout.outline import aspect_ratio, towards_outline
from spatial_ipa.layout.placement import Placement, consensus
from spatial_ipa.layout.whole import place_whole


def points(n: int, seed: int = 0) -> Tensor:
    """(n, 2) gauge-fixed, without symmetry."""
    x = torch.rand(n, 2, generator=torch.Generator().manual_seed(seed))
    return gauge_fix(x * torch.tensor([3.0, 1.5]) + x.prod(1, keepdim=True))


def random_poses(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(count, 2, 2) rotations, every second one mirrored on average, and (count, 2) shifts."""
    angle = 2 * math.pi * torch.rand(count, generator=generator)
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    c, s = angle.cos(), angle.sin()
    rotation = torch.stack([torch.stack([c, -s], 1), torch.stack([mirror * s, mirror * c], 1)], 1)
    return rotation, torch.randn(count, 2, generator=generator)


class TrueLayout:
    """Places each graph at its true coordinates, which are its embeddings, in a random pose.

    Args:
        std: of Gaussian noise added to each coordinate, taken from the start noise.
        shift: also move each graph.
    """

    def __init__(self, std: float = 0.0, shift: bool = True) -> None:
        self.std, self.shift = std, shift
        self.generator = torch.Generator().manual_seed(5)
        self.calls: list[list[int]] = []

    def __call__(
        self, h: Tensor, edges: EdgeList, graph: Tensor, num_graphs: int, noise: Tensor
    ) -> Tensor:
        assert edges.num_nodes == len(h) == len(graph) == len(noise)
        assert torch.equal(graph[edges.src], graph[edges.dst]), "an edge between two graphs"
        self.calls.append(torch.bincount(graph, minlength=num_graphs).tolist())
        rotation, shift = random_poses(num_graphs, self.generator)
        x = h + self.std * noise
        x = (rotation[graph] @ x[:, :, None])[:, :, 0]
        return x + self.shift * shift[graph]


# A whole graph is returned in gauge by the real model, so the stand-in does not shift it.
def whole(h: Tensor, std: float = 0.0, draws: int = 4, seed: int = 0) -> Placement:
    return place_whole(TrueLayout(std, shift=False), h, 10, draws, seed, 0.0)


def principal_widths(xy: torch.Tensor) -> np.ndarray:
    return np.linalg.svd((xy - xy.mean(0)).numpy(), compute_uv=False)


@pytest.mark.parametrize(("aspect", "share"), [(0.8, 0.5), (0.8, 1.0), (0.2, 0.5), (0.8, 0.0)])
def test_outline_moves_the_aspect_ratio_by_its_share(aspect: float, share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    draws = points(200) @ torch.tensor([[1.0, 0.3], [0.0, 0.4]])
    draws = draws + 0.05 * torch.randn(4, 200, 2, generator=generator)
    before = consensus(draws)
    after = towards_outline(before, aspect, share)
    own = principal_widths(before.xy)[1] / principal_widths(before.xy)[0]
    found = principal_widths(after.xy)[1] / principal_widths(after.xy)[0]
    assert aspect_ratio(before.xy) == pytest.approx(own, rel=1e-5)
    assert found == pytest.approx(own ** (1 - share) * aspect**share, rel=1e-4)
    assert after.xy.square().sum(1).mean().item() == pytest.approx(1, abs=1e-5)
    # One linear map without rotation: symmetric, the same for the draws.
    change = torch.linalg.lstsq(before.xy - before.xy.mean(0), after.xy).solution
    torch.testing.assert_close(change, change.T, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.draws, before.draws @ change, rtol=1e-3, atol=1e-4)


def test_outline_turns_with_the_layout() -> None:
    placed = whole(points(120) * torch.tensor([1.0, 0.3]), 0.05)
    rotation = random_poses(1, torch.Generator().manual_seed(3))[0][0]
    turned = type(placed)(placed.xy @ rotation.T, placed.draws @ rotation.T)
    expected = towards_outline(placed, 0.7).xy @ rotation.T
    torch.testing.assert_close(towards_outline(turned, 0.7).xy, expected, rtol=1e-4, atol=1e-5)


def test_a_line_is_not_stretched_and_a_wrong_aspect_is_refused() -> None:
    line = torch.stack([torch.linspace(-1, 1, 50), torch.zeros(50)], dim=1)
    placed = consensus(line.expand(2, -1, -1))
    assert torch.equal(towards_outline(placed, 0.7).xy, placed.xy)
    for aspect in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="aspect"):
            towards_outline(placed, aspect)
