"""Edges in every form that PyG hands out, and what is kept of them between calls."""

from __future__ import annotations

import gc

import pytest
import torch
from layer_problems import (
    EDGE_FEATURES,
    FEATURES,
    NODES,
    assert_same,
    draw,
    messy_edges,
)
from torch import Tensor, nn
from torch_geometric import EdgeIndex
from torch_geometric import nn as pyg
from torch_geometric.data import Batch, Data

from common.graph.edges import EdgeList
from common.sparse.nn import GATv2Conv, PointAttentionConv, TransformerConv
from common.sparse.nn import graph as graph_module
from common.sparse.nn.graph import graph_of

LAYERS = [TransformerConv, GATv2Conv]


def layer_of(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind(FEATURES, 6, heads=2, edge_dim=EDGE_FEATURES)  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", LAYERS)
def test_every_form_of_the_same_edges(kind: type[nn.Module]) -> None:
    """Sorted either way, shuffled, int32, EdgeIndex with and without sizes, EdgeList."""
    layer, x = layer_of(kind), draw(NODES, FEATURES)
    index = messy_edges()
    attr = draw(index.shape[1], EDGE_FEATURES)
    want = layer(x, index, attr)
    by_destination = torch.argsort(index[1], stable=True)
    by_source = torch.argsort(index[0], stable=True)
    shuffled = torch.randperm(index.shape[1], generator=torch.Generator().manual_seed(1))
    for order in (by_destination, by_source, shuffled):
        assert_same([layer(x, index[:, order], attr[order])], [want])
    assert_same([layer(x, index.int(), attr)], [want])
    size = (NODES, NODES)
    for edges, values in (
        (EdgeIndex(index, sparse_size=size), attr),
        (EdgeIndex(index), attr),
        (
            EdgeIndex(index[:, by_destination], sort_order="col", sparse_size=size),
            attr[by_destination],
        ),
        (EdgeIndex(index[:, by_source], sort_order="row", sparse_size=size), attr[by_source]),
    ):
        assert_same([layer(x, edges, values)], [want])
    edges, order = EdgeList.with_order(index, NODES)
    assert_same([layer(x, edges, attr[order])], [want])
    assert_same([layer(x, edges.int32(), attr[order])], [want])


def test_with_order_says_which_edge_stands_where() -> None:
    index = messy_edges()
    edges, order = EdgeList.with_order(index, NODES)
    assert torch.equal(index[:, order], edges.edge_index)
    assert torch.equal(order.sort().values, torch.arange(index.shape[1]))
    twice = (edges.src.diff() == 0) & (edges.dst.diff() == 0)
    assert twice.any()
    assert (order.diff()[twice] > 0).all(), "edges given twice keep their order"


@pytest.mark.parametrize("kind", LAYERS)
def test_a_batch_gives_what_its_graphs_give(kind: type[nn.Module]) -> None:
    layer = layer_of(kind)
    graphs = [
        Data(
            x=draw(nodes, FEATURES),
            edge_index=messy_edges(nodes, nodes),
            edge_attr=draw(150, EDGE_FEATURES, seed=nodes),
        )
        for nodes in (5, 9, NODES)
    ]
    alone = torch.cat([layer(g.x, g.edge_index, g.edge_attr) for g in graphs])
    batch = Batch.from_data_list(graphs)
    assert_same([layer(batch.x, batch.edge_index, batch.edge_attr)], [alone])
    union = EdgeList.disjoint_union([EdgeList.from_pyg(g) for g in graphs])
    assert torch.equal(EdgeList.from_pyg(batch).edge_index, union.edge_index)


def test_from_pyg_takes_data_of_every_kind() -> None:
    index = messy_edges()
    want = EdgeList.from_edge_index(index, NODES)
    for data in (
        Data(edge_index=index, num_nodes=NODES),
        Data(edge_index=EdgeIndex(index, sparse_size=(NODES, NODES)), num_nodes=NODES),
        Data(x=draw(NODES, 2), edge_index=want.to_pyg()),
    ):
        got = EdgeList.from_pyg(data)
        assert torch.equal(got.edge_index, want.edge_index)
        assert got.num_nodes == NODES
    with pytest.raises(ValueError, match="edge_index and num_nodes"):
        EdgeList.from_pyg(Data(x=draw(NODES, 2)))


def test_sorted_once_and_again_after_a_change_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    sorts: list[int] = []
    build = EdgeList.with_order

    def counted(edge_index: Tensor, num_nodes: int) -> tuple[EdgeList, Tensor]:
        sorts.append(num_nodes)
        return build(edge_index, num_nodes)

    monkeypatch.setattr(EdgeList, "with_order", staticmethod(counted))
    first, second = (TransformerConv(FEATURES, FEATURES) for _ in range(2))
    their_first = pyg.TransformerConv(FEATURES, FEATURES)
    their_first.load_state_dict(first.state_dict())
    x, index = draw(NODES, FEATURES), messy_edges()
    for _ in range(3):
        second(first(x, index), index)
    assert len(sorts) == 1
    index[:, :9] = 1
    assert_same([first(x, index)], [their_first(x, index)])
    assert len(sorts) == 2
    first(draw(NODES + 2, FEATURES), index)  # more nodes: another list
    assert len(sorts) == 3


def test_what_was_kept_goes_with_the_tensor() -> None:
    layer, x = layer_of(GATv2Conv), draw(NODES, FEATURES)
    index = messy_edges()
    attr = draw(index.shape[1], EDGE_FEATURES)
    gc.collect()
    before = len(graph_module._of_tensors)
    layer(x, index, attr)
    assert len(graph_module._of_tensors) == before + 1
    del index
    gc.collect()
    assert len(graph_module._of_tensors) == before


def test_edges_made_in_inference_mode_are_not_kept() -> None:
    """Nobody records whether they are changed in place."""
    layer, x = TransformerConv(FEATURES, 6), draw(NODES, FEATURES)
    theirs = pyg.TransformerConv(FEATURES, 6)
    theirs.load_state_dict(layer.state_dict())
    with torch.inference_mode():
        index = messy_edges()
        layer(x, index)
        index[:, :9] = 1
        assert_same([layer(x, index)], [theirs(x, index)])


@pytest.mark.parametrize("kind", [*LAYERS, PointAttentionConv])
def test_no_edges(kind: type[nn.Module]) -> None:
    layer = kind(FEATURES, 6)  # type: ignore[call-arg]
    index = torch.empty(2, 0, dtype=torch.int64)
    if kind is PointAttentionConv:
        out, moved = layer(draw(NODES, FEATURES), draw(NODES, 3), index)
        assert torch.equal(moved, draw(NODES, 3))
        assert_same([out], [layer.lin_skip(draw(NODES, FEATURES))])
        return
    theirs = getattr(pyg, kind.__name__)(FEATURES, 6)
    theirs.load_state_dict(layer.state_dict())
    x = draw(NODES, FEATURES)
    assert_same([layer(x, index)], [theirs(x, index)])


@pytest.mark.parametrize(
    ("index", "sides", "message"),
    [
        (torch.zeros(3, 2, dtype=torch.int64), (4, 4), r"shape \(2, E\), got \(3, 2\)"),
        (torch.zeros(2, 2), (4, 4), "must hold integers"),
        (torch.tensor([[0], [4]]), (4, 4), r"lie in \[0, 4\)"),
        (torch.tensor([[3], [0]]), (3, 9), "names node 3 among 3 sources"),
        (torch.tensor([[0], [3]]), (9, 3), "names node 3 among 3 destinations"),
        (torch.tensor([[-1], [0]]), (3, 9), "got values from -1 to 0"),
        (torch.eye(3).to_sparse(), (3, 3), "sparse matrices .adj_t. are not supported"),
        ([[0], [1]], (3, 3), "must be a .2, E. tensor"),
        (
            EdgeList.from_edge_index(torch.tensor([[0], [1]]), 2),
            (3, 3),
            "2 nodes, x has rows for 3",
        ),
    ],
)
def test_bad_edges(index: Tensor, sides: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        graph_of(index, *sides, "source_to_target")


def test_an_edge_list_has_one_direction() -> None:
    edges = EdgeList.from_edge_index(torch.tensor([[0], [1]]), 2)
    with pytest.raises(ValueError, match="flow='target_to_source' with an EdgeList"):
        graph_of(edges, 2, 2, "target_to_source")
