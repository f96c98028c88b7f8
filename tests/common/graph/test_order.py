"""Node orders: permutations that bring neighbours together and change no result."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from common.graph.edges import EdgeList
from common.graph.knn import knn_edges
from common.graph.order import inverse_order, locality_order, permute_edges
from common.rng import generator_for
from common.sparse import neighbor_attention


def curved(n: int, d: int, seed: int = 0) -> Tensor:
    """Points of a bent sheet in d dimensions, with noise, in random order."""
    generator = generator_for(seed)
    u = torch.rand(n, 2, generator=generator)
    wave = 3 * u @ torch.randn(2, d, generator=generator)
    return torch.sin(wave) + 0.02 * torch.randn(n, d, generator=generator)


@pytest.mark.parametrize(
    ("n", "d", "leaf"),
    [(0, 3, 16), (1, 2, 1), (7, 0, 2), (5, 2, 1), (1000, 1, 1), (1237, 2, 16), (900, 128, 5)],
)
def test_is_a_permutation(n: int, d: int, leaf: int) -> None:
    x = torch.randn(n, d, generator=generator_for(n))
    order = locality_order(x, leaf)
    assert order.dtype == torch.int64
    assert torch.equal(order.sort().values, torch.arange(n))
    assert torch.equal(locality_order(x, leaf), order)
    assert torch.equal(x[order][inverse_order(order)], x)


def test_one_dimension_is_sorted() -> None:
    x = torch.randn(777, 1, generator=generator_for(1))
    assert torch.equal(locality_order(x, 1), torch.argsort(x[:, 0]))


def test_coincident_nodes_keep_their_order() -> None:
    assert torch.equal(locality_order(torch.ones(300, 4), 1), torch.arange(300))


def test_first_split_is_the_median_of_the_long_side() -> None:
    """A sheet of 20 × 1: whatever its pose, one half of it comes first."""
    generator = generator_for(2)
    sheet = torch.rand(2000, 2, generator=generator) * torch.tensor([20.0, 1.0])
    pose, _ = torch.linalg.qr(torch.randn(30, 30, generator=generator))
    order = locality_order(sheet @ pose[:2], 1000)
    first, second = sheet[order[:1000], 0], sheet[order[1000:], 0]
    # The direction is that of a sample, so the cut is slightly oblique.
    overlap = min(first.max() - second.min(), second.max() - first.min())
    assert float(overlap) < 1.0


@pytest.mark.parametrize(("d", "shrink"), [(2, 10), (3, 10), (128, 8)])
def test_neighbours_come_near(d: int, shrink: float) -> None:
    x = curved(4000, d)
    edges = knn_edges(x, 10)
    order = locality_order(x)
    moved = permute_edges(edges, order)

    def apart(e: EdgeList) -> float:
        return float((e.src - e.dst).abs().double().mean())

    assert apart(moved) < apart(edges) / shrink


def test_permuted_graph_is_the_same_graph() -> None:
    x = curved(500, 3)
    edges = knn_edges(x, 7).select(torch.rand(3500, generator=generator_for(3)) < 0.6)
    order = locality_order(x)
    moved = permute_edges(edges, order)
    renamed = torch.stack([order[moved.src], order[moved.dst]])
    assert torch.equal(EdgeList.from_edge_index(renamed, 500).edge_index, edges.edge_index)
    back = permute_edges(moved, inverse_order(order))
    assert torch.equal(back.edge_index, edges.edge_index)
    assert torch.equal(back.ptr, edges.ptr)


def test_graph_of_the_new_order_is_the_permuted_graph() -> None:
    x = torch.randn(400, 2, generator=generator_for(4))
    order = locality_order(x)
    wanted = knn_edges(x[order], 9)
    assert torch.equal(permute_edges(knn_edges(x, 9), order).edge_index, wanted.edge_index)


def test_attention_does_not_depend_on_the_order() -> None:
    n, heads, width = 300, 2, 8
    generator = generator_for(5)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = draw(n, 2)
    q, k, v = (draw(n, heads, width) for _ in range(3))
    w_x = draw(heads, 2, 2)
    edges = knn_edges(x, 12)
    out, step = neighbor_attention(q, k, v, x, edges, w_x)
    order = locality_order(x)
    back = inverse_order(order)
    out_moved, step_moved = neighbor_attention(
        q[order], k[order], v[order], x[order], permute_edges(edges, order), w_x
    )
    torch.testing.assert_close(out_moved[back], out, rtol=0, atol=1e-12)
    torch.testing.assert_close(step_moved[back], step, rtol=0, atol=1e-12)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"float \(N, D\) matrix"):
        locality_order(torch.zeros(3))
    with pytest.raises(ValueError, match="leaf must be at least 1, got 0"):
        locality_order(torch.zeros(3, 2), 0)
    with pytest.raises(ValueError, match="x must be finite"):
        locality_order(torch.full((3, 2), torch.inf))
    with pytest.raises(ValueError, match="every node from 0 to 2 once"):
        inverse_order(torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match="every node from 0 to 2 once"):
        inverse_order(torch.tensor([0, 1, 3]))
    with pytest.raises(ValueError, match=r"\(N,\) integers"):
        inverse_order(torch.tensor([0.0, 1.0]))
    edges = knn_edges(torch.randn(5, 2, generator=generator_for(6)), 2)
    with pytest.raises(ValueError, match="hold the 5 nodes of edges, got 3"):
        permute_edges(edges, torch.arange(3))
