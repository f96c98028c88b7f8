"""Graphs on coordinates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from common.graph.edges import EdgeList
from spatial_ipa.geometry import graphs
from spatial_ipa.model.targets import build_target


def points(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 2, generator=torch.Generator().manual_seed(seed)) * torch.tensor(
        [3.0, 2.0]
    )


@pytest.mark.parametrize(
    ("n", "k", "steps", "landmarks"),
    [(96, 20, 3, 8), (160, 24, 3, 10), (161, 24, 4, 10), (300, 45, 4, 18), (384, 57, 5, 24)],
)
def test_adaptive_sizes(n: int, k: int, steps: int, landmarks: int) -> None:
    assert (graphs.adaptive_k(n), graphs.walk_steps(n), graphs.num_landmarks(n)) == (
        k,
        steps,
        landmarks,
    )


def test_ring_ranks() -> None:
    xy = points(300, 1)
    k = graphs.adaptive_k(300)
    i, j = graphs.ring_edges(xy, k, torch.Generator().manual_seed(0)).numpy()
    rank = cdist(xy, xy).argsort(1).argsort(1)[i, j]  # 0 is the node itself
    assert rank.min() > k
    assert rank.max() <= 4 * k
    assert np.array_equal(np.bincount(i), np.full(300, k // 2))
    assert len({*zip(i.tolist(), j.tolist(), strict=True)}) == len(i)


def test_farthest_points_cover() -> None:
    """Greedy farthest points are a 2-approximation: no point is farther than the closest pair."""
    xy = points(250, 2)
    chosen = graphs.farthest_points(xy, 16, torch.Generator().manual_seed(0))
    assert len(set(chosen.tolist())) == 16
    distance = cdist(xy[chosen], xy[chosen]) + 1e9 * np.eye(16)
    assert cdist(xy, xy[chosen]).min(1).max() <= distance.min() + 1e-6


def test_coincident_points_are_refused_where_they_break_the_scale() -> None:
    xy = points(60)
    xy[:30] = 1.0
    with pytest.raises(ValueError, match="30 of 60 points coincide"):
        build_target(xy, torch.Generator().manual_seed(0))


def test_empty_graph_union_keeps_types() -> None:
    edges = EdgeList.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 3)
    assert edges.num_edges == 0
    assert edges.ptr.tolist() == [0, 0, 0, 0]
