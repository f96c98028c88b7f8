"""Layouts of many cells, whole and stitched."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.spatial import procrustes
from torch import Tensor
from true_layouts import TrueLayout, points, random_poses, whole

from common.graph.edges import EdgeList
from spatial_ipa.geometry.gauge import gauge_fix
from spatial_ipa.layout.placement import Placement, consensus
from spatial_ipa.layout.stitched import place_stitched
from spatial_ipa.layout.whole import place_whole


def procrustes_error(x: Tensor, y: Tensor) -> float:
    """RMS distance over RMS radius after SciPy's superposition."""
    return float(np.sqrt(procrustes(y.double().numpy(), x.double().numpy())[2]))


def stitched(h: Tensor, size: int, std: float = 0.0, draws: int = 4, seed: int = 0) -> Placement:
    return place_stitched(TrueLayout(std), h, 10, draws, seed, 0.0, size)


@pytest.mark.parametrize("n", [30, 301])
def test_whole_recovers_the_layout(n: int) -> None:
    h = points(n)
    found = whole(h)
    assert found.draws.shape == (4, n, 2)
    assert procrustes_error(found.xy, h) < 1e-4
    assert found.spread.shape == (n,)
    assert found.spread.max() < 1e-4


@pytest.mark.parametrize(("n", "size"), [(301, 60), (97, 96), (240, 60), (1000, 130), (61, 60)])
def test_stitched_recovers_the_layout(n: int, size: int) -> None:
    """Whether or not the cells divide into parts; every draw by itself, and their mean."""
    h = points(n)
    found = stitched(h, size)
    assert found.draws.shape == (4, n, 2)
    for layout in (found.xy, *found.draws):
        assert procrustes_error(layout, h) < 1e-4
    assert found.spread.max() < 1e-4


@pytest.mark.parametrize(("n", "size", "anchors"), [(301, 60, 20), (97, 96, 32), (640, 60, 40)])
def test_every_cell_is_placed_once_in_equal_parts(n: int, size: int, anchors: int) -> None:
    place = TrueLayout()
    place_stitched(place, points(n), 10, 3, 0, 0.0, size, anchors)
    assert len(place.calls) == 3  # one union per pass at these sizes
    for sizes in place.calls:
        assert max(sizes) <= size
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) > anchors
        assert sum(sizes) - len(sizes) * anchors == n - anchors
        assert len(sizes) == math.ceil((n - anchors) / (size - anchors))


def test_memory_bound_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts may go through the model in several calls; the anchors of the first hold them all."""
    h = points(301)
    monkeypatch.setattr("spatial_ipa.layout.stitched._NODES_PER_CALL", 130)
    place = TrueLayout()
    found = place_stitched(place, h, 10, 2, 0, 0.0, 60)
    assert len(place.calls) > 2
    assert all(sum(sizes) <= 130 for sizes in place.calls)
    assert procrustes_error(found.xy, h) < 1e-4
    assert found.spread.max() < 1e-4


def test_nodes_in_memory_order_give_the_same_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings, their noise, the start and the edges all move together, and back."""
    h = points(301)

    def place(
        h: Tensor, cells: Tensor, edges: EdgeList, graph: Tensor, count: int, noise: Tensor
    ) -> Tensor:
        seen.append(edges)
        mean = torch.zeros_like(h).index_add(0, edges.dst, given[cells][edges.src])
        return gauge_fix(h + 0.1 * mean + 0.3 * noise)

    given = h

    seen: list[EdgeList] = []
    plain = place_whole(place, h, 10, 2, 0, 0.1)
    monkeypatch.setattr("spatial_ipa.layout.whole._ORDER_FROM", 301)
    ordered = place_whole(place, h, 10, 2, 0, 0.1)
    before, after = ((e.src - e.dst).abs().float().mean() for e in (seen[0], seen[-1]))
    assert after < 0.3 * before, "otherwise nothing was ordered"
    torch.testing.assert_close(ordered.draws, plain.draws, rtol=0, atol=1e-5)


def expected_spread(std: float, draws: int) -> float:
    """RMS over cells: two coordinates, and the mean over draws takes one of them away."""
    return std * math.sqrt(2 * (draws - 1) / draws)


@pytest.mark.parametrize("std", [0.02, 0.1])
def test_spread_of_whole_is_the_noise(std: float) -> None:
    """n = 400, 8 draws: 400 * 14 normal deviates, standard error of the RMS below 1 %.

    The superposition fits three degrees of freedom of 800 per draw, below 0.2 %.
    """
    n, draws = 400, 8
    found = whole(points(n), std, draws)
    rms = found.spread.square().mean().sqrt().item()
    assert rms == pytest.approx(expected_spread(std, draws), rel=0.05)
    # One cell: chi-square with 14 degrees of freedom over 14, at most about 3 of 400 cells.
    assert found.spread.max() < 2 * rms


def test_spread_of_stitched_is_the_noise() -> None:
    """Cells outside the anchors carry the noise of one miniset plus that of superposing it.

    A third of 384 nodes are anchors: superposing adds noise of three fitted values over 2 * 128.
    The anchors of a pass are means over several parts, so the whole lies a little below.
    """
    n, draws, std = 1200, 6, 0.05
    found = stitched(points(n), 384, std, draws)
    rms = found.spread.square().mean().sqrt().item()
    assert 0.9 * expected_spread(std, draws) < rms < 1.05 * expected_spread(std, draws)


def test_more_draws_make_the_mean_better() -> None:
    """The error of the mean falls as 1 / sqrt(draws): 4-fold from 2 to 32 draws."""
    h = points(300)
    few, many = (procrustes_error(whole(h, 0.1, draws).xy, h) for draws in (2, 32))
    assert few / many == pytest.approx(4, rel=0.25)


def noise_seen(mode: str, noise_h: float, seed: int) -> Tensor:
    """What the model got on top of the clean embeddings."""
    h = torch.zeros(200, 50)
    h[:, 0] = torch.arange(200)
    seen: list[Tensor] = []

    def place(h: Tensor, *graph: object) -> Tensor:
        seen.append(h[:, 1:].clone())
        return torch.rand(len(h), 2, generator=torch.Generator().manual_seed(0))

    if mode == "whole":
        place_whole(place, h, 10, 2, seed, noise_h)
    else:
        place_stitched(place, h, 10, 2, seed, noise_h, 60)
    return torch.cat(seen)


@pytest.mark.parametrize("mode", ["whole", "stitched"])
def test_embeddings_carry_the_noise_of_training(mode: str) -> None:
    noise = noise_seen(mode, 0.3, 0)
    assert abs(noise.mean()) < 5 * 0.3 / noise.numel() ** 0.5
    assert abs(noise.std() - 0.3) < 5 * 0.3 / (2 * noise.numel()) ** 0.5
    assert not bool(noise_seen(mode, 0.0, 0).any())


@pytest.mark.parametrize("place", [whole, lambda h, **k: stitched(h, 60, **k)])
def test_deterministic_in_the_seed(place: Callable[..., Placement]) -> None:
    h = points(200)
    torch.manual_seed(0)
    first = place(h, std=0.1, seed=3)
    torch.manual_seed(1)
    again, other = place(h, std=0.1, seed=3), place(h, std=0.1, seed=4)
    assert torch.equal(first.draws, again.draws)
    assert torch.equal(first.xy, again.xy)
    assert not torch.equal(first.draws, other.draws)


@pytest.mark.parametrize("n", [50, 60])
def test_small_samples_are_placed_whole(n: int) -> None:
    h = points(n)
    place = TrueLayout(0.1, shift=False)
    found = place_stitched(place, h, 10, 3, 0, 0.0, 60)
    assert place.calls == [[n]] * 3
    assert torch.equal(found.draws, whole(h, 0.1, 3).draws)


def test_result_is_gauge_fixed() -> None:
    for found in (whole(points(200), 0.1), stitched(points(200), 60, 0.1)):
        torch.testing.assert_close(found.xy.mean(0), torch.zeros(2), rtol=0, atol=1e-6)
        assert found.xy.square().sum(1).mean().item() == pytest.approx(1, abs=1e-5)


def test_consensus_does_not_depend_on_the_pose_of_draws() -> None:
    """Turning or mirroring single draws changes neither the spread nor the shape of the mean."""
    generator = torch.Generator().manual_seed(0)
    draws = points(150).expand(6, 150, 2) + 0.1 * torch.randn(6, 150, 2, generator=generator)
    rotation, _ = random_poses(6, generator)
    assert bool((torch.linalg.det(rotation) < 0).any())
    plain, moved = consensus(draws), consensus(draws @ rotation.mT)
    torch.testing.assert_close(moved.spread, plain.spread, rtol=1e-4, atol=1e-6)
    assert procrustes_error(moved.xy, plain.xy) < 1e-5
    # In the gauge of its first draw.
    torch.testing.assert_close(moved.xy, plain.xy @ rotation[0].T, rtol=1e-4, atol=1e-5)


def test_consensus_superposes_on_the_mean_not_on_the_first_draw() -> None:
    """An outlier in front must not set the frame: draws end up near each other all the same."""
    generator = torch.Generator().manual_seed(0)
    clean = points(150)
    outlier = gauge_fix(torch.randn(150, 2, generator=generator))
    found = consensus(torch.stack([outlier] + [clean] * 6))
    assert (found.draws[1:] - found.draws[1]).abs().max() < 1e-5
    assert procrustes_error(found.xy, clean) < 0.3


@pytest.mark.parametrize("num_anchors", [-1, 0, 1, 60, 61])
def test_bad_number_of_anchors(num_anchors: int) -> None:
    with pytest.raises(ValueError, match=rf"size = 60\), got {num_anchors}"):
        place_stitched(TrueLayout(), points(200), 10, 2, 0, 0.0, 60, num_anchors)
