"""Places: the same graph in another order, for graphs that attention goes over many times."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.graph.edges import EdgeList
from common.graph.knn import knn_edges
from common.graph.order import graph_order, locality_order, mean_log_gap, permute_edges
from common.graph.places import for_many_calls, places_in_order, places_of
from common.rng import generator_for


def multigraph(nodes: int, count: int, dtype: torch.dtype = torch.int64) -> EdgeList:
    """Random edges, some twice; the last node has none."""
    index = torch.randint(0, nodes - 1, (2, count), generator=generator_for(count))
    index[:, : count // 4] = index[:, count // 4 : count // 4 * 2]
    return EdgeList.from_edge_index(index.to(dtype), nodes)


def cloud(nodes: int = 3000, k: int = 20) -> EdgeList:
    return knn_edges(torch.rand(nodes, 2, generator=generator_for(3)), k)


def test_graph_order_is_a_permutation_that_shortens_the_gaps() -> None:
    edges = cloud()
    order = graph_order(edges)
    assert torch.equal(order.sort().values, torch.arange(3000))
    near = permute_edges(edges, order)
    assert mean_log_gap(near.src, near.dst) < mean_log_gap(edges.src, edges.dst) - 3


def test_graph_order_finds_a_shuffled_path() -> None:
    """On a path reverse Cuthill-McKee goes from one end to the other."""
    shuffle = torch.randperm(100, generator=generator_for(0))
    path = EdgeList.from_edge_index(torch.stack([shuffle[1:], shuffle[:-1]]), 100)
    order = graph_order(path)
    assert torch.equal(order, shuffle) or torch.equal(order, shuffle.flip(0))


def test_graph_order_of_nothing() -> None:
    assert len(graph_order(EdgeList.from_edge_index(torch.empty(2, 0).long(), 0))) == 0


def test_mean_log_gap_of_a_few_edges() -> None:
    gap = mean_log_gap(torch.tensor([0, 5, 9]), torch.tensor([1, 2, 9]))
    np.testing.assert_allclose(gap, (1 + 2 + 0) / 3)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_places_hold_the_same_rows_in_the_same_order(dtype: torch.dtype) -> None:
    edges = multigraph(40, 300, dtype)
    rows = torch.randperm(40, generator=generator_for(1))
    places = places_in_order(edges, rows)
    for place, node in enumerate(rows.tolist()):
        mine = slice(places.ptr[place], places.ptr[place + 1])
        theirs = slice(edges.ptr[node], edges.ptr[node + 1])
        assert places.first[place] == edges.ptr[node]
        assert torch.equal(rows[places.src[mine].long()], edges.src[theirs].long())
        assert bool((places.dst[mine] == place).all())


def test_places_keep_the_order_of_out_edges() -> None:
    edges = multigraph(40, 300)
    rows = torch.randperm(40, generator=generator_for(1))
    places, (rev_ptr, rev_edge) = places_in_order(edges, rows), edges.by_source
    place_of_edge = torch.cat(
        [torch.arange(edges.ptr[node], edges.ptr[node + 1]) for node in rows]
    )  # of each edge over places, the one over nodes
    for place, node in enumerate(rows.tolist()):
        mine = places.rev_edge[places.rev_ptr[place] : places.rev_ptr[place + 1]].long()
        assert torch.equal(place_of_edge[mine], rev_edge[rev_ptr[node] : rev_ptr[node + 1]])
        assert bool((places.src[mine] == place).all())


def test_for_many_calls_keeps_the_edges() -> None:
    edges = cloud()
    near = for_many_calls(edges)
    assert torch.equal(near.edge_index, edges.edge_index)
    assert torch.equal(near.ptr, edges.ptr)
    places = places_of(near)
    assert places is not None
    assert mean_log_gap(places.src, places.dst) < mean_log_gap(edges.src, edges.dst) - 3
    assert places_of(edges) is None


def test_graphs_of_a_union_are_brought_together() -> None:
    union = EdgeList.disjoint_union([cloud(1000), cloud(1000), cloud(1000), cloud(1000)])
    assert places_of(for_many_calls(union)) is not None


def ordered() -> EdgeList:
    points = torch.rand(3000, 2, generator=generator_for(3))
    return knn_edges(points[locality_order(points)], 20)


@pytest.mark.parametrize(
    "edges",
    [
        pytest.param(ordered, id="near already"),
        pytest.param(lambda: multigraph(500, 500 * 30), id="nothing brings them together"),
        pytest.param(lambda: EdgeList.from_edge_index(torch.empty(2, 0).long(), 3), id="no edges"),
        pytest.param(lambda: EdgeList.from_edge_index(torch.empty(2, 0).long(), 0), id="no nodes"),
    ],
)
def test_no_order_where_it_would_not_pay(edges) -> None:  # type: ignore[no-untyped-def]
    graph = edges()
    assert for_many_calls(graph) is graph


def test_places_stay_on_the_cpu() -> None:
    near = for_many_calls(cloud())
    assert places_of(near.to("cpu")) is not None
    moved = near.to("meta")
    assert places_of(moved) is None
    assert moved.by_source[1].device.type == "meta"
