"""Health checks against dense NumPy and SciPy; their invariances; both forms of the network."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from common.graph.edges import EdgeList
from spatial_ipa.geometry.distance_metrics import nearest_quantile, nearest_variation
from spatial_ipa.geometry.gauge import gauge_fix
from spatial_ipa.model.block import DistanceTerm
from spatial_ipa.model.diagnostics import health_checks, nearest_checks
from spatial_ipa.model.edge_scores import TOP
from spatial_ipa.model.gate import EdgeGate, EdgeGateSoft
from spatial_ipa.model.minisets import Miniset, build_miniset, collate
from spatial_ipa.model.network import Attention, Layout, NetworkSettings
from spatial_ipa.model.pair import Network, build_pair
from spatial_ipa.model.points import IPAPointsModel
from spatial_ipa.model.states import IPALiteModel
from spatial_ipa.model.targets import build_target


def row_slices(edges: EdgeList) -> list[slice]:
    ptr = edges.ptr.tolist()
    return [slice(a, b) for a, b in pairwise(ptr)]


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
    "reference_attention_recall30",
    "reference_logit_std",
    "reference_attention_vs_qk",
}
PER_HEAD = {"head_precision30", "head_recall30", "head_vs_true_distance"}
LAYOUT = {
    "eigenvalue_ratio",
    "median_distance",
    "nearest_cv",
    "nearest_cv_ratio",
    "nearest_q05",
    "nearest_q05_ratio",
}
GATE = {"gate_precision30", "gate_recall30", "reference_gate_recall30"}
GATE_PER_RECYCLE = {"attention_vs_gate", "reference_attention_vs_gate"}


@torch.no_grad()
def run_checks(batch: Miniset, gated: bool = True) -> dict[str, torch.Tensor]:
    model, gate_module = models()
    gate = gate_module(batch.h, batch.candidates) if gated else None
    layout = model(batch.h, batch.candidates, gate, batch.target.graph, batch.num_graphs)
    return health_checks(model, batch, layout, batch.candidates, gate)


@pytest.mark.parametrize("gated", [True, False])
def test_health_checks_are_complete_and_finite(gated: bool) -> None:
    values = run_checks(batch_of((60, 45)), gated)
    names = PER_RECYCLE | (GATE_PER_RECYCLE if gated else set())
    wanted = {f"{name}/{r}" for name in names for r in range(3)} | LAYOUT
    wanted |= {f"{name}/{h}" for name in PER_HEAD for h in range(2)}
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
    plain = set(run_checks(batch))
    lost = {name for name in plain if "vs_qk" in name} if option == {"qk": False} else set()
    assert plain - set(values) == lost
    new = {f"attention_vs_distance/{r}" for r in range(3)}
    has_distance = "distance_term" in option or option.get("block") == "unshared"
    assert set(values) - plain == (new if has_distance else set())
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
        a = model.attention(layout, edges, gate, batch.target.graph, 2, recycle=0).weights
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


# What follows is the same for both forms of the network, against matrices in NumPy.

FORMS = ("points", "states", "rbf")


def network(form: str) -> tuple[Network, EdgeGate]:
    """Network and gate, none of whose weights is 0."""
    torch.manual_seed(0)
    settings = NetworkSettings(16, 12, 3, 4, recycles=2, form="points")
    if form != "points":
        term: DistanceTerm = "rbf" if form == "rbf" else "none"
        settings = replace(settings, form="states", distance_term=term)
    model, gate = build_pair(settings, "gated")
    assert gate is not None
    generator = torch.Generator().manual_seed(1)
    for parameter in (*model.parameters(), *gate.parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = parameter.data + 0.2 * noise
    return model.eval(), gate.eval()


def started(sizes: tuple[int, ...]) -> Miniset:
    """Minisets of different sizes with a start."""
    batch = batch_of(sizes)
    noise = torch.randn(batch.target.xy.shape, generator=torch.Generator().manual_seed(5))
    return replace(batch, start=batch.target.xy + 0.3 * noise)


def alone(batch: Miniset, sizes: tuple[int, ...], which: int) -> Miniset:
    """One graph of a union, as if it had been built by itself."""
    first = sum(sizes[:which])
    own = slice(first, first + sizes[which])
    assert batch.start is not None
    return replace(collate([batch_item(sizes, which)]), start=batch.start[own])


def batch_item(sizes: tuple[int, ...], which: int) -> Miniset:
    generator = torch.Generator().manual_seed(which)
    h, xy = (torch.randn(sizes[which], d, generator=generator) for d in (16, 2))
    return build_miniset(h, xy, 35, generator)


@torch.no_grad()
def passed(
    form: str, batch: Miniset
) -> tuple[Layout, torch.Tensor, dict[str, torch.Tensor], Attention]:
    model, gate_module = network(form)
    gate = gate_module(batch.h, batch.candidates)
    graphs = batch.target.graph, batch.num_graphs
    layout = model(batch.h, batch.candidates, gate, *graphs, start=batch.start)
    values = health_checks(model, batch, layout, batch.candidates, gate)
    return layout, gate, values, model.attention(layout, batch.candidates, gate, *graphs)


@pytest.mark.parametrize("recycle", [0, -1])
@pytest.mark.parametrize("form", FORMS)
def test_attention_is_what_moves_the_cells(form: str, recycle: int) -> None:
    """The step of a recycle from dense matrices of the weights given."""
    batch = started((60, 45))
    model, _ = network(form)
    layout, gate, _, _ = passed(form, batch)
    graphs = batch.target.graph, 2
    seen = model.attention(layout, batch.candidates, gate, *graphs, recycle=recycle)
    x = layout.trajectory[:-1][recycle]
    dense = torch.zeros(3, 105, 105)
    dense[:, batch.candidates.dst, batch.candidates.src] = seen.weights.T
    torch.testing.assert_close(dense.sum(2), torch.ones(3, 105))
    soft = torch.full((3, 105, 105), -torch.inf)
    soft[:, batch.candidates.dst, batch.candidates.src] = seen.logits.T
    torch.testing.assert_close(dense, soft.softmax(2), rtol=1e-4, atol=1e-5)
    if isinstance(model, IPAPointsModel):
        w_x = model.block.alpha[:, None, None] * torch.eye(2)
    else:
        w_x = model.block.w_x
    towards = x[None] - x[:, None]  # from i to j
    step = torch.einsum("hij,hcd,ijd->ic", dense, w_x.detach(), towards)
    wanted = gauge_fix(x + step, *graphs)
    torch.testing.assert_close(layout.trajectory[1:][recycle], wanted, rtol=1e-4, atol=1e-5)
    parts = [part for part in (seen.qk, seen.distance) if part is not None]
    if form == "rbf":
        total = parts[0] + parts[1] + model.block.beta * gate[:, None]
        torch.testing.assert_close(seen.logits, total)
    assert len(parts) == (2 if form == "rbf" else 1)


def test_there_is_no_attention_of_a_recycle_that_was_not() -> None:
    batch = started((60,))
    layout, gate, _, _ = passed("points", batch)
    with pytest.raises(IndexError):
        network("points")[0].attention(layout, batch.candidates, gate, recycle=2)


@pytest.mark.parametrize("form", FORMS)
def test_new_checks_equal_matrices(form: str) -> None:
    """Of one graph: by head, by reference, the distance term, and nearest distances."""
    batch = started((60,))
    layout, gate, values, seen = passed(form, batch)
    n, edges, xy = 60, batch.candidates, batch.target.xy.double().numpy()
    true = np.zeros((n, n), bool)
    true[batch.target.edges.dst, batch.target.edges.src] = True

    def matrix(value: torch.Tensor) -> np.ndarray:
        held = np.full((n, n), np.nan)
        held[edges.dst, edges.src] = value.numpy()
        return held

    def found(score: np.ndarray) -> np.ndarray:
        """(n,) true neighbours among the 30 highest of each row."""
        top = np.argsort(-np.nan_to_num(score, nan=-np.inf), axis=1)[:, :TOP]
        return np.take_along_axis(true, top, 1).sum(1)

    def rho(a: np.ndarray, b: np.ndarray) -> float:
        rows = zip(a, b, strict=True)
        return np.mean([spearmanr(u, v, nan_policy="omit").statistic for u, v in rows])

    apart = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    wanted = {}
    for h in range(3):
        a = matrix(seen.weights[:, h])
        wanted[f"head_precision30/{h}"] = (found(a) / TOP).mean()
        wanted[f"head_recall30/{h}"] = (found(a) / np.minimum(TOP, true.sum(1))).mean()
        wanted[f"head_vs_true_distance/{h}"] = rho(a, -apart)
    mean_a = matrix(seen.weights.mean(1))
    last = "1"
    wanted[f"reference_attention_recall30/{last}"] = (found(mean_a) / true.sum(1)).mean()
    wanted["reference_gate_recall30"] = (found(matrix(gate)) / true.sum(1)).mean()
    wanted[f"reference_logit_std/{last}"] = seen.logits.double().numpy().std()
    pooled = seen.weights.mean(1).numpy()
    others = {"gate": gate.numpy()}
    if seen.qk is not None:
        others["qk"] = seen.qk.mean(1).numpy()
    for name, other in others.items():
        wanted[f"reference_attention_vs_{name}/{last}"] = spearmanr(pooled, other).statistic
    assert (seen.distance is None) == (f"attention_vs_distance/{last}" not in values)
    if seen.distance is not None:
        term = rho(mean_a, matrix(seen.distance.mean(1)))
        wanted[f"attention_vs_distance/{last}"] = term
    if form == "points":  # falls with the distance in the layout that was read
        x = layout.trajectory[1].double().numpy()
        shown = -np.linalg.norm(x[:, None] - x[None], axis=2)
        assert term == pytest.approx(rho(mean_a, np.where(np.isnan(mean_a), np.nan, shown)), 1e-3)
    x = layout.x.double().numpy()
    for name, function in (("cv", nearest_variation), ("q05", nearest_quantile)):
        wanted[f"nearest_{name}"] = function(x)
        wanted[f"nearest_{name}_ratio"] = function(x) / function(xy)
    for name, value in wanted.items():
        assert values[name].item() == pytest.approx(value, rel=2e-3, abs=1e-4), name


@pytest.mark.parametrize("form", FORMS)
def test_checks_of_a_graph_do_not_depend_on_the_others(form: str) -> None:
    """What has a value per graph: of the union, the mean of those of the graphs."""
    sizes = (60, 45, 52)
    union = started(sizes)
    together = passed(form, union)[2]
    parts = [passed(form, alone(union, sizes, i))[2] for i in range(3)]
    names = [n for n in together if n.startswith(("head_", "reference_", "nearest_"))]
    names += [n for n in together if n.startswith("attention_vs_distance")]
    assert len(names) > 15
    for name in names:
        mean = np.mean([part[name].item() for part in parts])
        assert together[name].item() == pytest.approx(mean, rel=1e-3, abs=2e-4), name


@pytest.mark.parametrize("form", FORMS)
def test_checks_do_not_depend_on_the_order_of_the_cells(form: str) -> None:
    """Cells renumbered; the pairs of the collapse check are drawn anew, so it is left out."""
    batch = batch_item((60,), 0)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(3))
    noise = 0.3 * torch.randn(60, 2, generator=torch.Generator().manual_seed(4))
    generator = torch.Generator().manual_seed(9)
    moved = build_miniset(batch.h[order], batch.target.xy[order], 35, generator)
    first = passed(form, replace(batch, start=batch.target.xy + noise))[2]
    again = passed(form, replace(moved, start=(batch.target.xy + noise)[order]))[2]
    assert set(first) == set(again)
    for name in set(first) - {"median_distance"}:
        assert first[name].item() == pytest.approx(again[name].item(), rel=1e-3, abs=2e-4), name


def test_a_tissue_on_a_grid_has_no_spread_to_compare_with() -> None:
    """Nearest distances of a grid are equal: the ratio of spreads is not defined."""
    grid = torch.stack(torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij"), 2)
    target = build_target(grid.reshape(-1, 2), torch.Generator().manual_seed(0))
    target = replace(target, xy=grid.reshape(-1, 2))  # exact in float32
    checks = nearest_checks(gauge_fix(target.xy + torch.rand(64, 2)), target)
    assert bool(torch.isnan(checks["nearest_cv_ratio"]).all())
    assert 0 < checks["nearest_q05_ratio"].item() < 1
