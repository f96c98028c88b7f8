"""k-nearest-neighbour graphs against SciPy and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from common.graph.edges import EdgeList
from common.graph.knn import exact, knn_edges, knn_index


def neighbours(edges: EdgeList, i: int) -> set[int]:
    return set(edges.src[edges.ptr[i] : edges.ptr[i + 1]].tolist())


@pytest.mark.parametrize(
    ("n", "d", "k"), [(50, 2, 5), (333, 3, 20), (257, 128, 100), (2000, 16, 7)]
)
def test_same_neighbours_as_scipy(n: int, d: int, k: int) -> None:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(n))
    _, wanted = cKDTree(x.numpy()).query(x.numpy(), k + 1)
    edges = knn_edges(x, k)
    assert edges.in_degree.tolist() == [k] * n
    for i in range(n):
        assert neighbours(edges, i) == set(wanted[i].tolist()) - {i}


def test_table_is_ordered_by_distance() -> None:
    x = torch.randn(80, 4)
    index, valid = knn_index(x, 12)
    distance = cdist(x.numpy(), x.numpy())
    rows = np.take_along_axis(distance, index.numpy(), axis=1)
    assert valid.all()
    assert (np.diff(rows, axis=1) >= -1e-6).all()


def test_ties_go_to_the_lower_index() -> None:
    """On a grid the four direct neighbours tie; which two are taken must not depend on chance."""
    side = 9
    x = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
    index, _ = knn_index(x, 2)
    for i in range(side * side):
        distance = ((x - x[i]) ** 2).sum(1)
        order = sorted(range(side * side), key=lambda j: (distance[j].item(), j))
        assert index[i].tolist() == [j for j in order if j != i][:2]


def test_coincident_points_never_return_self() -> None:
    edges = knn_edges(torch.zeros(6, 2), 3)
    assert edges.in_degree.tolist() == [3] * 6
    assert not bool((edges.src == edges.dst).any())


@pytest.mark.parametrize("block", [64, 1000, 2**22])
def test_union_equals_each_graph_alone(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs of all sizes, also smaller than k, whatever the block size."""
    monkeypatch.setattr(exact, "_BLOCK_ELEMENTS", block)
    sizes = [30, 1, 4, 57, 2, 19]
    parts = [torch.randn(n, 3, generator=torch.Generator().manual_seed(n)) for n in sizes]
    ptr = torch.tensor([0, *sizes]).cumsum(0)
    union = knn_edges(torch.cat(parts), 6, ptr)
    alone = EdgeList.disjoint_union([knn_edges(part, 6) for part in parts])
    assert torch.equal(union.src, alone.src)
    assert torch.equal(union.dst, alone.dst)
    assert torch.equal(union.ptr, alone.ptr)
    assert union.in_degree.tolist() == [min(6, n - 1) for n in sizes for _ in range(n)]


@pytest.mark.parametrize("d", [2, 9])
def test_chunks_of_columns_change_nothing(d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows and few columns at a time, and whole-number points with many ties."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 3, (300, d), generator=generator).float()
    whole, _ = knn_index(x, 17)
    monkeypatch.setattr(exact, "_BLOCK_ELEMENTS", 500)
    monkeypatch.setattr(exact, "_MIN_ROWS", 40)  # 12 columns at a time, fewer than k
    assert torch.equal(knn_index(x, 17)[0], whole)
    distance = ((x[:, None] - x[None]) ** 2).sum(2)
    distance.fill_diagonal_(torch.inf)
    assert torch.equal(whole, distance.sort(dim=1, stable=True).indices[:, :17])


def test_autocast_does_not_reach_the_distances() -> None:
    x = torch.randn(90, 32, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        inside = knn_edges(x, 8)
    assert torch.equal(inside.src, knn_edges(x, 8).src)


def test_permuting_nodes_permutes_edges() -> None:
    x = torch.randn(120, 8)
    order = torch.randperm(120)
    before = knn_edges(x, 9)
    after = knn_edges(x[order], 9)
    renamed = {(int(order[j]), int(order[i])) for j, i in after.edge_index.T.tolist()}
    assert renamed == {(j, i) for j, i in before.edge_index.T.tolist()}


@pytest.mark.parametrize(
    ("x", "k", "ptr", "message"),
    [
        (torch.tensor([[0.0, float("nan")]]), 1, None, "1 of 1 rows hold NaN"),
        (torch.zeros(3, dtype=torch.float32), 1, None, r"float \(N, D\) matrix"),
        (torch.zeros(3, 2, dtype=torch.int64), 1, None, r"float \(N, D\) matrix"),
        (torch.zeros(3, 2), 0, None, "k must be at least 1, got 0"),
        (torch.zeros(3, 2), 1, torch.tensor([0, 2]), "must rise from 0 to 3"),
        (torch.zeros(3, 2), 1, torch.tensor([0, 2, 1, 3]), "must rise from 0 to 3"),
    ],
)
def test_bad_input(x: torch.Tensor, k: int, ptr: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        knn_edges(x, k, ptr)
