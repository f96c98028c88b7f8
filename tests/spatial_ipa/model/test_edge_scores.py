"""Ranks, precision, recall and rank correlation of rows against loops and SciPy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import rankdata, spearmanr

from common.graph.edges import EdgeList
from spatial_ipa.model.edge_scores import (
    TOP,
    joins_true,
    mean_of_rows,
    ranks,
    row_ranks,
    row_spearman,
    spearman,
    top_precision_recall,
)

N = 50


def ragged_edges(seed: int = 0) -> EdgeList:
    """Rows of 0, 1, 2, ... up to N - 1 edges, in random order of nodes."""
    rng = np.random.default_rng(seed)
    pairs = [
        (j, i)
        for i, degree in enumerate(rng.permutation(N))
        for j in rng.choice(np.delete(np.arange(N), i), degree, replace=False)
    ]
    return EdgeList.from_edge_index(torch.tensor(pairs).T, N)


def scores(edges: EdgeList, seed: int) -> torch.Tensor:
    return torch.randn(edges.num_edges, generator=torch.Generator().manual_seed(seed))


def row_slices(edges: EdgeList) -> list[slice]:
    ptr = edges.ptr.tolist()
    return [slice(a, b) for a, b in pairwise(ptr)]


def tied(edges: EdgeList, seed: int) -> torch.Tensor:
    """Scores of six values, of both signs of zero among them."""
    values = torch.tensor([-2.5, -1.0, -0.0, 0.0, 3.0, 1e-30])
    generator = torch.Generator().manual_seed(seed)
    return values[torch.randint(6, (edges.num_edges,), generator=generator)]


@pytest.mark.parametrize("score_of", [scores, tied])
def test_ranks_equal_scipy(score_of) -> None:
    edges = ragged_edges()
    score = score_of(edges, 0)
    rank = row_ranks(score, edges)
    for row in row_slices(edges):
        own = -score[row].numpy()
        assert (rank.ordinal[row].numpy() == rankdata(own, "ordinal") - 1).all()
        assert (rank.shared[row].numpy() == rankdata(own, "average") - 1).all()


def test_ranks_over_whole_graphs() -> None:
    """Groups of several rows, one of them empty; in half precision, too."""
    edges = ragged_edges()
    score = tied(edges, 1)
    graph = torch.tensor([0, 2])[(edges.dst >= 20).long()]
    for given in (score, score.half()):
        rank = ranks(given, graph, 3)
        for group in (0, 2):
            own = -given[graph == group].float().numpy()
            assert (rank.shared[graph == group].numpy() == rankdata(own) - 1).all()


def test_ranks_of_no_edges() -> None:
    nothing = torch.empty(0)
    rank = ranks(nothing, nothing.long(), 4)
    assert rank.ordinal.shape == rank.shared.shape == (0,)
    assert torch.isnan(spearman(nothing, nothing, nothing.long(), 4)).all()


def test_top_precision_and_recall() -> None:
    """Rows with fewer than 30 edges, with none, with more true neighbours than candidates."""
    edges = ragged_edges()
    score = scores(edges, 0)
    generator = torch.Generator().manual_seed(1)
    is_true = torch.rand(edges.num_edges, generator=generator) < 0.3
    found = torch.zeros(N, dtype=torch.int64).index_add(0, edges.dst, is_true.long())
    true_degree = found + torch.randint(0, 30, (N,), generator=generator)
    true_degree[5] = 0
    is_true[row_slices(edges)[5]] = False
    precision, recall = np.full(N, np.nan), np.full(N, np.nan)
    for node, row in enumerate(row_slices(edges)):
        if row.start == row.stop:
            continue
        top = np.argsort(-score[row].numpy())[:TOP]
        hits = int(is_true[row].numpy()[top].sum())
        precision[node] = hits / len(top)
        recall[node] = hits / max(1, min(TOP, int(true_degree[node])))
    assert np.isnan(precision).sum() == 1
    got = top_precision_recall(row_ranks(score, edges), is_true, true_degree, edges)
    np.testing.assert_allclose(got[0], precision, rtol=1e-6)
    np.testing.assert_allclose(got[1], recall, rtol=1e-6)


@pytest.mark.parametrize("score_of", [scores, tied])
def test_spearman_equals_scipy(score_of) -> None:
    edges = ragged_edges()
    a, b = score_of(edges, 0), score_of(edges, 1)
    b = b + 0.5 * a
    got = row_spearman(row_ranks(a, edges), row_ranks(b, edges), edges)
    for node, row in enumerate(row_slices(edges)):
        varies = len(a[row].unique()) > 1 and len(b[row].unique()) > 1
        wanted = spearmanr(a[row].numpy(), b[row].numpy()).statistic if varies else np.nan
        assert got[node].item() == pytest.approx(wanted, abs=1e-5, nan_ok=True)
    assert int(torch.isnan(got).sum()) >= 2  # rows of no edge and of one


def test_spearman_sees_order_only() -> None:
    edges = ragged_edges()
    a = scores(edges, 0)
    own = row_ranks(a, edges)

    def rho(b: torch.Tensor) -> float:
        return float(row_spearman(own, row_ranks(b, edges), edges).nanmean())

    assert rho(a.exp()) == pytest.approx(1, abs=1e-5)
    assert rho(-a) == pytest.approx(-1, abs=1e-5)
    # A shift of whole rows changes nothing within them.
    assert rho(a + 100 * torch.arange(N)[edges.dst]) == pytest.approx(1, abs=1e-4)


def test_a_large_group_keeps_its_digits() -> None:
    """200,000 edges in one graph, against SciPy."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(200_000, generator=generator)
    b = a + torch.randn(200_000, generator=generator)
    group = torch.zeros(200_000, dtype=torch.int64)
    got = spearman(ranks(a, group, 1).shared, ranks(b, group, 1).shared, group, 1)
    assert got.item() == pytest.approx(spearmanr(a.numpy(), b.numpy()).statistic, abs=1e-4)


def test_known_edges() -> None:
    edges, known = ragged_edges(0), ragged_edges(1)
    pairs = set(map(tuple, known.edge_index.T.tolist()))
    wanted = [tuple(pair) in pairs for pair in edges.edge_index.T.tolist()]
    assert joins_true(edges, known).tolist() == wanted
    none = EdgeList.from_edge_index(torch.empty(2, 0, dtype=torch.int64), N)
    assert not bool(joins_true(edges, none).any())
    assert joins_true(none, edges).shape == (0,)


def test_mean_of_rows_leaves_out_what_is_not_known() -> None:
    value = torch.tensor([1.0, torch.nan, 4.0, torch.nan])
    graph = torch.tensor([0, 0, 0, 1])
    got = mean_of_rows(value, graph, 2)
    assert got[0] == 2.5
    assert bool(torch.isnan(got[1]))
