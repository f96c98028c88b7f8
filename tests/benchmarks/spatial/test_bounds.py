"""Edges of the bounds, and layouts placed on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.graph.edges import EdgeList
from common.graph.knn import knn_edges
from spatial_ipa.data.slide import EmbeddedSlide
from spatial_ipa.geometry.gauge import gauge_fix
from spatial_ipa.geometry.graphs import adaptive_k, spatial_graph
from spatial_ipa.geometry.metrics import procrustes_rmse
from spatial_ipa.layout.frame_fit import cross_fit
from spatial_ipa.model.minisets import MinisetDataset
from spatial_ipa.model.network import Layout


@pytest.fixture(scope="module")
def bounds(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("spatial/bounds")


def pairs(edges: EdgeList) -> set[tuple[int, int]]:
    return set(zip(edges.src.tolist(), edges.dst.tolist(), strict=True))


def slide(n: int = 200) -> EmbeddedSlide:
    rng = np.random.default_rng(0)
    xy = rng.random((n, 2)).astype(np.float32)
    h = np.hstack([xy, 0.3 * rng.standard_normal((n, 4))]).astype(np.float32)
    return EmbeddedSlide("s", h, xy)


def graphs(given: EmbeddedSlide) -> tuple[EdgeList, EdgeList]:
    h, xy = torch.from_numpy(given.h), torch.from_numpy(given.xy)
    return knn_edges(h, 50), spatial_graph(xy, adaptive_k(len(xy)))[0]


def test_an_oracle_gate_keeps_the_true_candidates(bounds: ModuleType) -> None:
    candidates, true = graphs(slide())
    found = bounds.bounded_edges(candidates, true, "oracle", torch.Generator())
    assert pairs(found) == pairs(candidates) & pairs(true)
    assert 0 < found.num_edges < candidates.num_edges


def test_thinning_keeps_as_many_true_edges_as_the_candidates_hold(bounds: ModuleType) -> None:
    candidates, true = graphs(slide())
    generator = torch.Generator().manual_seed(3)
    found = bounds.bounded_edges(candidates, true, "thinned", generator)
    assert pairs(found) < pairs(true)
    held = len(pairs(candidates) & pairs(true))
    assert found.num_edges == pytest.approx(held, rel=0.06)
    # Lost at random: of the edges kept, candidates have their share and not more.
    share = len(pairs(found) & pairs(candidates)) / found.num_edges
    assert share == pytest.approx(held / true.num_edges, abs=0.04)


def test_minisets_have_these_edges_and_their_targets(bounds: ModuleType) -> None:
    given = slide()
    minisets = MinisetDataset([replace(given, start=given.h[:, :2])], 3, 96, 120, 50, seed=1)
    bounded = bounds.BoundedMinisets(minisets, "oracle")
    plain, item = minisets[2], bounded[2]
    assert len(bounded) == 3
    assert pairs(item.candidates) == pairs(plain.candidates) & pairs(plain.target.edges)
    assert item.wanted.shape == (item.candidates.num_edges,)
    assert (item.wanted > 0).all()
    assert torch.equal(item.h, plain.h)
    assert item.start is not None
    assert torch.equal(item.start, plain.h[:, :2])


class Watching(nn.Module):
    """Places cells where they belong, which is in their embeddings, and keeps its edges."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, EdgeList]] = []
        self.starts: list[Tensor] = []

    def forward(
        self,
        h: Tensor,
        edges: EdgeList,
        gate: None,
        graph: Tensor,
        num_graphs: int,
        noise: Tensor,
        start: Tensor,
    ) -> Layout:
        self.seen.append((h, edges))
        self.starts.append(start)
        return Layout(gauge_fix(h[:, :2], graph, num_graphs), [], [])


@pytest.mark.parametrize("size", [300, 96])
def test_placed_on_true_edges_whole_and_stitched(bounds: ModuleType, size: int) -> None:
    given, network = slide(), Watching()
    frame, _ = cross_fit([given])
    layout = bounds.place_bounded(network, given, "oracle", 50, size, 2, 0, frame)
    start = torch.from_numpy(frame.averaged(given.h)).float()
    assert torch.isin(torch.cat(network.starts), start).all()
    # Minisets are superposed on their anchors without scaling, hence not exactly.
    assert procrustes_rmse(layout, given.xy) < (1e-4 if size == 300 else 0.1)
    for h, edges in network.seen:
        assert h.shape[1] == given.h.shape[1]
        distance = (h[edges.src, :2] - h[edges.dst, :2]).norm(dim=1)
        # Neighbours at k = 0.15 n of the unit square lie within some 0.3 of each other.
        assert distance.max() < 0.75
        assert edges.num_edges > 5 * len(h)
    if size == 300:
        candidates, true = graphs(given)
        assert pairs(network.seen[0][1]) == pairs(candidates) & pairs(true)
