"""A stand-in for the model that places cells where they belong."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from common.graph.edges import EdgeList
from spatial_ipa.geometry.gauge import gauge_fix
from spatial_ipa.layout.placement import Placement
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
        self,
        h: Tensor,
        cells: Tensor,
        edges: EdgeList,
        graph: Tensor,
        num_graphs: int,
        noise: Tensor,
    ) -> Tensor:
        assert edges.num_nodes == len(h) == len(cells) == len(graph) == len(noise)
        assert torch.equal(graph[edges.src], graph[edges.dst]), "an edge between two graphs"
        self.calls.append(torch.bincount(graph, minlength=num_graphs).tolist())
        rotation, shift = random_poses(num_graphs, self.generator)
        x = h + self.std * noise
        x = (rotation[graph] @ x[:, :, None])[:, :, 0]
        return x + self.shift * shift[graph]


# A whole graph is returned in gauge by the real model, so the stand-in does not shift it.
def whole(h: Tensor, std: float = 0.0, draws: int = 4, seed: int = 0) -> Placement:
    return place_whole(TrueLayout(std, shift=False), h, 10, draws, seed, 0.0)
