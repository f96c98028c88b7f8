"""Ranks, precision, recall and rank correlation of rows against loops and SciPy; health checks."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from common.graph.edges import EdgeList
from common.sparse import attention_weights
from spatial_ipa.model.diagnostics import (
    TOP,
    health_checks,
    rank_in_row,
    row_spearman,
    top_precision_recall,
)
from spatial_ipa.model.gate import EdgeGateSoft
from spatial_ipa.model.minisets import Miniset, build_miniset, collate
from spatial_ipa.model.network import IPALiteModel, NetworkSettings
from spatial_ipa.model.pair import build_pair

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


def test_rank_in_row() -> None:
    edges = ragged_edges()
    score = scores(edges, 0)
    rank = rank_in_row(score, edges)
    for row in row_slices(edges):
        wanted = np.argsort(np.argsort(-score[row].numpy()))
        assert rank[row].tolist() == wanted.tolist()


def test_ranks_of_equal_scores_follow_the_edges() -> None:
    edges = ragged_edges()
    rank = rank_in_row(torch.zeros(edges.num_edges), edges)
    for row in row_slices(edges):
        assert rank[row].tolist() == list(range(row.stop - row.start))


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
    precision, recall = [], []
    for node, row in enumerate(row_slices(edges)):
        if row.start == row.stop:
            continue
        top = np.argsort(-score[row].numpy())[:TOP]
        hits = int(is_true[row].numpy()[top].sum())
        precision.append(hits / len(top))
        recall.append(hits / max(1, min(TOP, int(true_degree[node]))))
    assert len(precision) == N - 1
    got = top_precision_recall(score, is_true, true_degree, edges)
    assert got[0].item() == pytest.approx(np.mean(precision), rel=1e-5)
    assert got[1].item() == pytest.approx(np.mean(recall), rel=1e-5)


def test_row_spearman_equals_scipy() -> None:
    edges = ragged_edges()
    a, b = scores(edges, 0), scores(edges, 1)
    b = b + 0.5 * a
    wanted = [
        spearmanr(a[row].numpy(), b[row].numpy()).statistic
        for row in row_slices(edges)
        if row.stop - row.start > 1
    ]
    assert len(wanted) == N - 2
    assert row_spearman(a, b, edges).item() == pytest.approx(np.mean(wanted), abs=1e-5)


def test_row_spearman_sees_order_only() -> None:
    edges = ragged_edges()
    a = scores(edges, 0)
    assert row_spearman(a, a.exp(), edges).item() == pytest.approx(1, abs=1e-5)
    assert row_spearman(a, -a, edges).item() == pytest.approx(-1, abs=1e-5)
    # A shift of whole rows changes nothing within them.
    shifted = a + 100 * torch.arange(N)[edges.dst]
    assert row_spearman(a, shifted, edges).item() == pytest.approx(1, abs=1e-4)


def batch_of(sizes: tuple[int, ...]) -> Miniset:
    items = []
    for seed, n in enumerate(sizes):
        generator = torch.Generator().manual_seed(seed)
        h, xy = (torch.randn(n, d, generator=generator) for d in (16, 2))
        items.append(build_miniset(h, xy, 35, generator))
    return collate(items)


def models() -> tuple[IPALiteModel, EdgeGateSoft]:
    """A model with non-zero updates, and a gate, both seeded."""
    torch.manual_seed(0)
    model = IPALiteModel(NetworkSettings(16, 12, 2, 4, recycles=3))
    for parameter in model.parameters():
        if not bool(parameter.any()):
            parameter.data = 0.1 * torch.randn(parameter.shape)
    return model.eval(), EdgeGateSoft(16, 8)


PER_RECYCLE = {
    "attention_recall30",
    "logit_std",
    "attention_entropy",
    "attention_vs_qk",
    "step_size",
}
LAYOUT = {"eigenvalue_ratio", "median_distance"}
GATE = {"gate_precision30", "gate_recall30"}


@torch.no_grad()
def run_checks(batch: Miniset, gated: bool = True) -> dict[str, torch.Tensor]:
    model, gate_module = models()
    gate = gate_module(batch.h, batch.candidates) if gated else None
    layout = model(batch.h, batch.candidates, gate, batch.target.graph, batch.num_graphs)
    return health_checks(model, batch, layout, batch.candidates, gate)


@pytest.mark.parametrize("gated", [True, False])
def test_health_checks_are_complete_and_finite(gated: bool) -> None:
    values = run_checks(batch_of((60, 45)), gated)
    names = PER_RECYCLE | ({"attention_vs_gate"} if gated else set())
    wanted = {f"{name}/{r}" for name in names for r in range(3)} | LAYOUT
    assert set(values) == wanted | (GATE if gated else set())
    for name, value in values.items():
        assert value.dim() == 0, name
        assert bool(torch.isfinite(value)), name
        if "30" in name:
            assert 0 < value < 1, name
        if "_vs_" in name:
            assert -1 <= value <= 1, name
    for r in range(3):
        assert 0 < values[f"attention_entropy/{r}"] < np.log(35) + 1e-5
        assert values[f"step_size/{r}"] > 0


@pytest.mark.parametrize(
    "option",
    [
        {"qk": False}, {"point_offsets": 2}, {"pair_bias": True}, {"gate_heads": "own"},
        {"block": "unshared"}, {"block": "frames"}, {"distance_term": "rbf"},
    ],
)  # fmt: skip
def test_options_have_health_checks(option: dict[str, object]) -> None:
    """All but the one that compares with products, where there are none."""
    torch.manual_seed(0)
    settings = NetworkSettings(16, 12, 2, 4, 3, form="states", **option)  # type: ignore[arg-type]
    model, gate_module = build_pair(settings, "gated")
    assert gate_module is not None
    batch = batch_of((60, 45))
    with torch.no_grad():
        gate = gate_module(batch.h, batch.candidates)
        layout = model(batch.h, batch.candidates, gate, batch.target.graph, batch.num_graphs)
    values = health_checks(model, batch, layout, batch.candidates, gate)
    names = PER_RECYCLE | {"attention_vs_gate"}
    names -= {"attention_vs_qk"} if option == {"qk": False} else set()
    assert set(values) == {f"{name}/{r}" for name in names for r in range(3)} | LAYOUT | GATE
    assert all(bool(torch.isfinite(value)) for value in values.values())


def test_attention_that_is_all_gate_ranks_as_it() -> None:
    """Without q and k, and with the mean of a gate per head where it is equal for all."""
    model, gate_module = build_pair(
        NetworkSettings(16, 12, 2, 4, 2, form="states", qk=False), "gated"
    )
    assert gate_module is not None
    batch = batch_of((60,))
    with torch.no_grad():
        gate = gate_module(batch.h, batch.candidates)
        for logit in (gate, gate[:, None].expand(-1, 2)):
            layout = model(batch.h, batch.candidates, logit, batch.target.graph, 1)
            values = health_checks(model, batch, layout, batch.candidates, logit)
            assert values["attention_vs_gate/0"].item() == pytest.approx(1, abs=1e-4)


def test_health_checks_equal_loops_over_rows() -> None:
    """The first recycle's figures, row by row in NumPy."""
    batch = batch_of((60, 45))
    values = run_checks(batch)
    model, gate_module = models()
    edges, known = batch.candidates, batch.target.edges
    with torch.no_grad():
        gate = gate_module(batch.h, edges)
        layout = model(batch.h, edges, gate, batch.target.graph, 2)
        _, q, k, _ = model.block.queries_keys_values(layout.states[0])
        a = attention_weights(q, k, edges, gate=gate, beta=model.block.beta)  # (E, H)
    query, key, attention = (t.double().numpy() for t in (q, k, a))
    true_sets = [set(known.src[row].tolist()) for row in row_slices(known)]
    entropy, versus, spread = [], [], []
    recall: list[float] = []
    precision: list[float] = []
    for i, row in enumerate(row_slices(edges)):
        src = edges.src[row].numpy()
        product = np.einsum("hc,jhc->jh", query[i], key[src]) / np.sqrt(q.shape[-1])
        logit = product + model.block.beta * gate[row].double().numpy()[:, None]
        soft = np.exp(logit) / np.exp(logit).sum(0)
        np.testing.assert_allclose(attention[row], soft, atol=1e-5)
        entropy.append(-(soft * np.log(soft)).sum(0).mean())
        spread.append((logit - logit.mean(0)) ** 2)
        mean = soft.mean(1)
        versus.append(spearmanr(mean, product.mean(1)).statistic)
        for score, out, total in (
            (mean, recall, min(TOP, len(true_sets[i]))),
            (gate[row].numpy(), precision, TOP),
        ):
            top = src[np.argsort(-score)[:TOP]]
            out.append(len(true_sets[i] & set(top.tolist())) / total)
    assert values["attention_entropy/0"].item() == pytest.approx(np.mean(entropy), rel=1e-4)
    assert values["attention_recall30/0"].item() == pytest.approx(np.mean(recall), rel=1e-4)
    assert values["attention_vs_qk/0"].item() == pytest.approx(np.mean(versus), abs=1e-3)
    assert values["gate_precision30"].item() == pytest.approx(np.mean(precision), rel=1e-4)
    root = np.sqrt(np.concatenate(spread).mean())
    assert values["logit_std/0"].item() == pytest.approx(root, rel=1e-4)


def test_a_gate_that_knows_the_truth_has_the_best_precision() -> None:
    """The target itself as gate: every picked edge is true where a row has 30 true candidates."""
    batch = batch_of((60,))
    model, _ = models()
    with torch.no_grad():
        layout = model(batch.h, batch.candidates, batch.wanted, batch.target.graph, 1)
        values = health_checks(model, batch, layout, batch.candidates, batch.wanted)
    true_count = torch.zeros(60).index_add(0, batch.candidates.dst, (batch.wanted > 0).float())
    best = (true_count.clamp(max=TOP) / TOP).mean()
    torch.testing.assert_close(values["gate_precision30"], best)


def test_collapse_is_visible() -> None:
    batch = batch_of((60,))
    model, _ = models()
    with torch.no_grad():
        layout = model(batch.h, batch.candidates, None, batch.target.graph, 1)
        flat = replace(layout, x=layout.x * torch.tensor([1.0, 1e-3]))
        values = health_checks(model, batch, flat, batch.candidates, None)
    assert values["eigenvalue_ratio"] < 0.01
