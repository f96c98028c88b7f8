"""The engines of the kNN graph against each other, scikit-learn and brute force."""

from __future__ import annotations

import builtins
from types import ModuleType
from typing import Any, get_args

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from common.graph.edges import EdgeList
from common.graph.knn import (
    Engine,
    approximate,
    exact,
    knn_edges,
    knn_index,
    knn_recall,
    search,
    trees,
)
from common.graph.knn.engines import ENGINES as TABLE
from common.rng import generator_for

TREES: tuple[Engine, ...] = ("kdtree", "cluster")
ENGINES: tuple[Engine, ...] = tuple(e for e in get_args(Engine) if e != "auto")


def brute_force(x: Tensor, k: int) -> Tensor:
    """(N, k) by a stable sort of all float32 sums of squared differences."""
    d2 = torch.zeros(len(x), len(x))
    for column in x.float().T:
        d2 += (column[:, None] - column[None]).square()
    d2.fill_diagonal_(torch.inf)
    return d2.sort(dim=1, stable=True).indices[:, :k]


def blobs(n: int, d: int, seed: int = 0) -> Tensor:
    """Clustered points."""
    generator = generator_for(seed)
    centers = 4 * torch.randn(40, d, generator=generator)
    chosen = torch.randint(40, (n,), generator=generator)
    return centers[chosen] + torch.randn(n, d, generator=generator)


def assert_same(found: EdgeList, wanted: EdgeList) -> None:
    assert torch.equal(found.ptr, wanted.ptr)
    assert torch.equal(found.src, wanted.src)
    assert torch.equal(found.dst, wanted.dst)


@pytest.mark.parametrize("engine", TREES)
@pytest.mark.parametrize("d", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "kind", ["uniform", "grid", "coincident", "pairs", "tiny", "far from zero", "huge"]
)
def test_trees_give_the_exact_table(engine: Engine, d: int, kind: str) -> None:
    """Ties at the edge of the neighbourhood included, whatever the tree proposes."""
    generator = generator_for(d)
    n, k = 700, 12
    points = {
        "uniform": torch.rand(n, d, generator=generator),
        "grid": torch.randint(0, 6, (n, d), generator=generator).float(),
        "coincident": torch.full((n, d), 0.3),
        "pairs": torch.rand(n // 2, d, generator=generator).repeat(2, 1),
        "tiny": 1e-23 * torch.rand(n, d, generator=generator),  # squares underflow
        "far from zero": 1e4 + 1e-2 * torch.rand(n, d, generator=generator),
        "huge": 1e18 * torch.rand(n, d, generator=generator),
    }[kind]
    index, valid = knn_index(points, k, engine=engine)
    assert valid.all()
    assert torch.equal(index, brute_force(points, k))


@pytest.mark.parametrize("engine", ["exact", *TREES])
def test_same_neighbours_as_scikit_learn(engine: Engine) -> None:
    x = torch.randn(3000, 3, generator=generator_for(1))
    wanted = NearestNeighbors(n_neighbors=21, algorithm="brute").fit(x.double().numpy())
    _, rows = wanted.kneighbors(x.double().numpy())
    index, _ = knn_index(x, 20, engine=engine)
    assert np.array_equal(np.sort(index.numpy()), np.sort(rows[:, 1:]))


@pytest.mark.parametrize("d", [2, 9, 128])
def test_pruning_changes_nothing(d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole numbers, so that products are exact and most distances tie."""
    x = torch.randint(0, 3, (1500, d), generator=generator_for(d)).float()
    x[700:760] = x[3]
    monkeypatch.setattr(exact, "_FIRST_COLUMNS", 100)
    monkeypatch.setattr(exact, "_BLOCK_ELEMENTS", 2**17)
    pruned = []
    original = exact._surviving_keys

    def spy(d2: Tensor, limit: Tensor, ids: Tensor, own: Tensor) -> Tensor | None:
        keys = original(d2, limit, ids, own)
        pruned.append(keys is not None)
        return keys

    monkeypatch.setattr(exact, "_surviving_keys", spy)
    index, valid = knn_index(x, 25, engine="exact")
    assert valid.all()
    assert torch.equal(index, brute_force(x, 25))
    assert any(pruned)
    knn_index(torch.zeros(1500, d), 25, engine="exact")  # all tie: nothing can be pruned
    assert not pruned[-1]


def test_rows_alone_get_the_rows_of_the_whole() -> None:
    x = torch.randn(900, 3, generator=generator_for(2))
    rows = torch.tensor([880, 0, 41, 41])
    alone, valid = exact.nearest_to_rows(x, 7, rows, (0, 900))
    assert valid.all()
    assert torch.equal(alone, brute_force(x, 7)[rows])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_compared_in_float32(engine: Engine, dtype: torch.dtype) -> None:
    x = torch.randn(200, 3, generator=generator_for(3)).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        index, _ = knn_index(x, 9, engine=engine)
    assert torch.equal(index, brute_force(x.detach(), 9))


@pytest.mark.parametrize("engine", ENGINES)
def test_graphs_of_all_sizes(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty graphs, one node, fewer nodes than k, and large ones between small ones."""
    monkeypatch.setattr(approximate, "_MIN_NODES", 300)
    sizes = [0, 5, 400, 1, 0, 0, 3, 350, 400, 30, 0]
    parts = [torch.randn(n, 2, generator=generator_for(4, i)) for i, n in enumerate(sizes)]
    ptr = torch.tensor([0, *sizes]).cumsum(0)
    edges = knn_edges(torch.cat(parts), 8, ptr, engine, recall=0.999)
    assert edges.in_degree.tolist() == [min(8, n - 1) for n in sizes for _ in range(n)]
    wanted = EdgeList.disjoint_union([knn_edges(part, 8, engine="exact") for part in parts])
    if engine == "approximate":
        graph = torch.repeat_interleave(torch.tensor(sizes))
        assert torch.equal(graph[edges.src], graph[edges.dst])
        assert not bool((edges.src == edges.dst).any())
        both = np.intersect1d(edges.src * 2000 + edges.dst, wanted.src * 2000 + wanted.dst)
        assert len(both) > 0.98 * wanted.num_edges
    else:
        assert_same(edges, wanted)


@pytest.mark.parametrize("engine", ENGINES)
def test_no_nodes(engine: Engine) -> None:
    edges = knn_edges(torch.zeros(0, 2), 3, engine=engine)
    assert (edges.num_nodes, edges.num_edges) == (0, 0)
    edges = knn_edges(torch.zeros(0, 2), 3, torch.zeros(1, dtype=torch.int64), engine)
    assert (edges.num_nodes, edges.num_edges) == (0, 0)


def test_no_columns() -> None:
    """All nodes coincide then; a tree needs a coordinate."""
    index, _ = knn_index(torch.zeros(5, 0), 2)
    assert index.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1]]
    for engine in TREES:
        with pytest.raises(ValueError, match="with 1 to 4 columns, got 0"):
            knn_index(torch.zeros(5, 0), 2, engine=engine)
    with pytest.raises(ValueError, match="needs x with a column"):
        knn_index(torch.zeros(5, 0), 2, engine="approximate")


@pytest.mark.parametrize("d", [2, 32])
def test_approximate_reaches_its_recall(d: int) -> None:
    x = blobs(6000, d)
    index, valid = knn_index(x, 15, engine="approximate", recall=0.9, seed=3)
    assert valid.all()
    assert not bool((index == torch.arange(6000)[:, None]).any())
    truth, _ = knn_index(x, 15, engine="exact")
    shared = (index[:, :, None] == truth[:, None, :]).any(2).double().mean(1)
    assert float(shared.mean()) >= 0.9
    everything = knn_recall(x, index, valid, 6000, generator_for(0))
    assert everything == pytest.approx(float(shared.mean()), abs=1e-3)
    # On 400 rows within four standard errors of it.
    error = float(shared.std()) / 20
    assert knn_recall(x, index, valid, 400, generator_for(1)) == pytest.approx(
        everything, abs=4 * error
    )
    again, _ = knn_index(x, 15, engine="approximate", recall=0.9, seed=3)
    assert torch.equal(again, index)


def test_approximate_is_ordered_by_distance_then_index() -> None:
    x = torch.randint(0, 12, (5000, 3), generator=generator_for(5)).float()
    index, _ = knn_index(x, 10, engine="approximate", recall=0.99)
    d2 = (x[:, None] - x[index]).square().sum(2)
    key = d2.long() * 5000 + index
    assert bool((key.diff(dim=1) > 0).all())


def test_approximate_when_lists_hold_too_few() -> None:
    """Most nodes coincide and the others are alone in their lists."""
    x = torch.zeros(5000, 4)
    x[:60] = 100 * torch.randn(60, 4, generator=generator_for(6))
    index, valid = knn_index(x, 20, engine="approximate", recall=0.5)
    assert valid.all()
    assert not bool((index == torch.arange(5000)[:, None]).any())
    assert all(len(set(row)) == 20 for row in index[:200].tolist())
    assert knn_recall(x, index, valid, 5000, generator_for(0)) > 0.5


def test_recall_counts_what_is_missing() -> None:
    x = torch.randn(300, 5, generator=generator_for(7))
    index, valid = knn_index(x, 10)
    assert knn_recall(x, index, valid, 300, generator_for(0)) == 1.0
    valid[:, 7:] = False
    assert knn_recall(x, index, valid, 300, generator_for(0)) == pytest.approx(0.7)
    far = (index + 1) % 300
    assert knn_recall(x, far, torch.ones_like(valid), 300, generator_for(0)) < 0.2
    ptr = torch.tensor([0, 1, 4, 300])
    index, valid = knn_index(x, 10, ptr)
    assert knn_recall(x, index, valid, 300, generator_for(0), ptr) == 1.0
    assert knn_recall(x[:1], index[:1], valid[:1], 1, generator_for(0)) == 1.0
    with pytest.raises(ValueError, match=r"must have shape \(300, k\)"):
        knn_recall(x, index[:5], valid, 10, generator_for(0))
    with pytest.raises(ValueError, match="sample must be at least 1"):
        knn_recall(x, index, valid, 0, generator_for(0))


def test_auto_takes_trees_where_they_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    for module, name in ((exact, "exact"), (trees, "tree"), (approximate, "approximate")):

        def spy(*args: Any, original: Any = module.nearest, name: str = name) -> Any:
            called.append(name)
            return original(*args)

        monkeypatch.setattr(module, "nearest", spy)
    monkeypatch.setattr(approximate, "_MIN_NODES", 500)
    generator = generator_for(8)
    large = search._TREE_NODES + 100

    def chosen(n: int, d: int, **settings: Any) -> str:
        called.clear()
        knn_index(torch.randn(n, d, generator=generator), 5, **settings)
        return called[0]

    assert chosen(100, 2) == "exact"
    assert chosen(large, 2) == "tree"
    assert chosen(large, 2, graph_ptr=torch.arange(0, large + 1, 50)) == "exact"
    assert chosen(large, 8) == "exact"  # never approximate unless told
    assert chosen(large, 8, approximate_above=1000) == "approximate"
    assert chosen(800, 8, approximate_above=1000) == "exact"
    assert chosen(large, 2, approximate_above=1000) == "tree"


@pytest.mark.parametrize(
    ("engine", "library"), [("cluster", "torch_cluster"), ("approximate", "faiss")]
)
@pytest.mark.parametrize("empty_release", [False, True])
def test_missing_library_is_named(
    engine: Engine, library: str, empty_release: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    importer = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == library and empty_release:
            return ModuleType(name)
        if name == library:
            raise ImportError(name)
        return importer(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=f"engine '{engine}' needs"):
        knn_edges(torch.randn(50, 2), 3, engine=engine)


def test_the_names_are_those_of_the_table() -> None:
    assert tuple(TABLE) == ENGINES
    assert [name for name, row in TABLE.items() if not row.exact] == ["approximate"]


def test_bad_settings() -> None:
    x = torch.zeros(10, 6)
    with pytest.raises(ValueError, match=r"engine must be one of auto, exact, .* got 'best'"):
        knn_edges(x, 3, engine="best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="with 1 to 4 columns, got 6; use engine 'exact'"):
        knn_edges(x, 3, engine="kdtree")
    for recall in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="recall must be above 0 and below 1"):
            knn_edges(x, 3, engine="approximate", recall=recall)
    for engine in get_args(Engine):
        with pytest.raises(ValueError, match="1 of 10 rows hold NaN"):
            knn_edges(torch.tensor([[0.0]] * 9 + [[float("nan")]]), 3, engine=engine)
        with pytest.raises(ValueError, match="x must be below about 1e19"):
            knn_edges(torch.full((10, 2), 2e19), 3, engine=engine)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("engine", ["exact", "kdtree", "approximate"])
def test_result_is_on_the_device_of_x(engine: Engine) -> None:
    x = torch.randn(3000, 3, generator=generator_for(9))
    index, valid = knn_index(x.cuda(), 10, engine=engine)
    assert index.device.type == valid.device.type == "cuda"
    if engine != "approximate":
        assert torch.equal(index.cpu(), knn_index(x, 10)[0])
