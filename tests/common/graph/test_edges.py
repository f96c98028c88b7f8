"""EdgeList against SciPy's CSR matrices, on random multigraphs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import block_diag, coo_array, csr_array

from common.graph.edges import EdgeList


@st.composite
def graphs(draw):
    nodes = draw(st.integers(1, 8))
    node = st.integers(0, nodes - 1)
    pairs = draw(st.lists(st.tuples(node, node), max_size=25))
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T, nodes


def dense(edges: EdgeList) -> np.ndarray:
    """(N, N) number of edges, destination by row."""
    out = np.zeros((edges.num_nodes, edges.num_nodes), dtype=int)
    np.add.at(out, (edges.dst.numpy(), edges.src.numpy()), 1)
    return out


@settings(deadline=None)
@given(graphs())
def test_rows_are_scipys_csr(graph):
    edge_index, nodes = graph
    edges = EdgeList.from_edge_index(edge_index, nodes)
    src, dst = edge_index.numpy()
    number = np.arange(1, src.size + 1)  # distinct values keep repeated edges apart
    csr = csr_array(coo_array((number, (dst, src)), shape=(nodes, nodes)))
    counts = np.bincount(dst, minlength=nodes)
    assert edges.ptr.tolist() == [0, *np.cumsum(counts)]
    assert edges.in_degree.tolist() == counts.tolist()
    assert edges.num_edges == src.size
    assert edges.num_nodes == nodes
    order = np.lexsort((src, dst))
    assert torch.equal(edges.edge_index, edge_index[:, torch.from_numpy(order)])
    csr.sum_duplicates()
    for i in range(nodes):
        row = edges.src[edges.ptr[i] : edges.ptr[i + 1]].numpy()
        assert np.unique(row).tolist() == csr.indices[csr.indptr[i] : csr.indptr[i + 1]].tolist()


@settings(deadline=None)
@given(graphs())
def test_by_source_is_the_transpose(graph):
    edges = EdgeList.from_edge_index(*graph)
    ptr, edge = edges.by_source
    assert sorted(edge.tolist()) == list(range(edges.num_edges))
    for j in range(edges.num_nodes):
        leaving = edge[ptr[j] : ptr[j + 1]]
        assert (edges.src[leaving] == j).all()
        assert (edges.dst[leaving].diff() >= 0).all()
    assert (torch.stack([ptr, edges.by_source[0]])[0] == ptr).all()
    assert edges.by_source[1] is edge, "computed once"


@settings(deadline=None)
@given(st.lists(graphs(), min_size=1, max_size=4))
def test_disjoint_union_is_block_diagonal_and_sorted(many):
    parts = [EdgeList.from_edge_index(*graph) for graph in many]
    union = EdgeList.disjoint_union(parts)
    assert np.array_equal(dense(union), block_diag([dense(part) for part in parts]).toarray())
    again = EdgeList.from_edge_index(union.edge_index, union.num_nodes)
    assert torch.equal(again.edge_index, union.edge_index)
    assert torch.equal(again.ptr, union.ptr)


@settings(deadline=None)
@given(graphs(), st.randoms(use_true_random=False))
def test_select_is_the_list_built_from_the_kept_edges(graph, random):
    edges = EdgeList.from_edge_index(*graph)
    keep = torch.tensor([random.random() < 0.5 for _ in range(edges.num_edges)], dtype=torch.bool)
    kept = edges.select(keep)
    expected = EdgeList.from_edge_index(edges.edge_index[:, keep], edges.num_nodes)
    assert torch.equal(kept.edge_index, expected.edge_index)
    assert torch.equal(kept.ptr, expected.ptr)


def test_selecting_does_not_inherit_the_reverse_order():
    edges = EdgeList.from_edge_index(torch.tensor([[2, 0, 1], [0, 1, 2]]), 3)
    _ = edges.by_source
    assert edges.select(torch.tensor([True, False, True])).by_source[1].tolist() == [1, 0]


def test_to_keeps_edges_and_the_reverse_order():
    edges = EdgeList.from_edge_index(torch.tensor([[2, 0, 1], [0, 1, 2]]), 3)
    ptr, edge = edges.by_source
    moved = edges.to("cpu")
    assert torch.equal(moved.edge_index, edges.edge_index)
    assert torch.equal(moved.by_source[0], ptr)
    assert torch.equal(moved.by_source[1], edge)


def test_large_node_numbers_sort_right():
    """The sort key dst * N + src must not wrap at 32 bits."""
    nodes = 200_000
    edge_index = torch.tensor([[5, 199_999, 0], [199_999, 150_000, 199_999]], dtype=torch.int32)
    edges = EdgeList.from_edge_index(edge_index, nodes)
    assert edges.edge_index.tolist() == [[199_999, 0, 5], [150_000, 199_999, 199_999]]


@pytest.mark.parametrize(
    ("edge_index", "message"),
    [
        (torch.zeros(3, 2, dtype=torch.int64), r"shape \(2, E\), got \(3, 2\)"),
        (torch.zeros(2, dtype=torch.int64), r"shape \(2, E\)"),
        (torch.zeros(2, 3), "must hold integers"),
        (torch.zeros(2, 3, dtype=torch.bool), "must hold integers"),
        (torch.tensor([[0], [4]]), r"lie in \[0, 4\), got values from 0 to 4"),
        (torch.tensor([[-1], [0]]), "got values from -1 to 0"),
    ],
)
def test_bad_input(edge_index, message):
    with pytest.raises(ValueError, match=message):
        EdgeList.from_edge_index(edge_index, 4)


def test_empty_union():
    with pytest.raises(ValueError, match="at least one graph"):
        EdgeList.disjoint_union([])


def test_equality_is_identity():
    """Comparing the tensors of two lists has no single truth value."""
    edges, same = (EdgeList.from_edge_index(torch.tensor([[0, 1], [1, 0]]), 2) for _ in range(2))
    assert edges == edges
    assert edges != same
    assert len({edges, same}) == 2


@settings(deadline=None)
@given(graphs())
def test_int32_indices_hold_the_same_graph(graph):
    edge_index, nodes = graph
    wide = EdgeList.from_edge_index(edge_index, nodes)
    narrow = EdgeList.from_edge_index(edge_index.int(), nodes)
    union = EdgeList.disjoint_union([narrow, narrow])
    kept = narrow.select(narrow.src != 0)
    for edges in (narrow, wide.int32(), union, kept, narrow.to("cpu")):
        assert edges.src.dtype == edges.dst.dtype == edges.by_source[1].dtype == torch.int32
        assert edges.ptr.dtype == edges.by_source[0].dtype == torch.int64
    for got in (narrow, wide.int32()):
        assert torch.equal(got.edge_index, wide.edge_index.int())
        assert torch.equal(got.ptr, wide.ptr)
        assert all(torch.equal(a, b) for a, b in zip(got.by_source, wide.by_source, strict=True))


@settings(deadline=None)
@given(graphs())
def test_from_csr_takes_what_from_edge_index_made(graph):
    edges = EdgeList.from_edge_index(*graph)
    for index in (edges.src, edges.src.int()):
        again = EdgeList.from_csr(edges.ptr, index)
        assert again.dst.dtype == index.dtype
        assert torch.equal(again.edge_index, edges.edge_index.to(index.dtype))
        assert torch.equal(again.ptr, edges.ptr)


@pytest.mark.parametrize(
    ("ptr", "src", "message"),
    [
        ([0, 2, 3], [1, 0, 1], "sources of row 0 are not sorted at edge 0"),
        ([0, 2, 1, 3], [0, 1, 2], "ptr falls after row 1"),
        ([0, 1, 2], [0, 1, 1], "from 0 to the 3 edges of src, got 0 to 2"),
        ([1, 2], [0, 0], "got 1 to 2"),
        ([0, 1, 2], [0, 2], r"in \[0, 2\), got 2 at edge 1"),
        ([0, 1, 2], [-1, 0], "got -1 at edge 0"),
        ([0.0, 1.0], [0], "ptr must be an integer vector"),
        ([0, 1], [0.0], "src must be an int32 or int64 vector"),
    ],
)
def test_from_csr_refuses_rows_that_are_out_of_order(ptr, src, message):
    with pytest.raises(ValueError, match=message):
        EdgeList.from_csr(torch.tensor(ptr), torch.tensor(src))


def test_int32_refuses_what_it_cannot_number():
    far = 2**31
    edges = EdgeList(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64),
                     torch.zeros(1, dtype=torch.int64).expand(far + 1))  # fmt: skip
    with pytest.raises(ValueError, match="do not fit int32"):
        edges.int32()


@settings(deadline=None)
@given(graphs())
def test_pygs_edge_index_holds_the_same(graph):
    from torch_geometric import EdgeIndex

    edge_index, nodes = graph
    edges = EdgeList.from_edge_index(edge_index, nodes)
    theirs = edges.to_pyg()
    theirs.validate()
    (ptr, src), _ = theirs.get_csc()
    assert torch.equal(ptr.long(), edges.ptr)
    assert torch.equal(src, edges.src)
    given_order = EdgeIndex(edge_index.contiguous(), sparse_size=(nodes, nodes))
    sorted_there = given_order.sort_by("col", stable=True).values
    assert torch.equal(sorted_there.as_tensor()[1], edges.dst)
    for index in (theirs, given_order, sorted_there):
        back = EdgeList.from_pyg(index)
        assert torch.equal(back.edge_index, edges.edge_index)
        assert back.num_nodes == nodes
