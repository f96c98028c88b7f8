"""Loss terms against dense formulas, and targets."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from scipy.spatial import procrustes
from scipy.spatial.distance import cdist

from common.graph.edges import EdgeList
from common.graph.knn import knn_edges
from spatial_ipa.geometry import graphs
from spatial_ipa.geometry.gauge import gauge_fix
from spatial_ipa.geometry.walks import build_predicted_rw_operator
from spatial_ipa.model.losses import (
    E_GEO,
    TERMS,
    GeometryTerms,
    LossWeights,
    collapse_diagnostics,
    geometry_terms,
    loss_gate,
    loss_rw_kl,
)
from spatial_ipa.model.targets import Target, build_target, gate_target, union_targets


def points(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 2, generator=torch.Generator().manual_seed(seed)) * torch.tensor(
        [3.0, 2.0]
    )


def target_of(n: int, seed: int = 0, num_rows: int | None = None) -> Target:
    return build_target(points(n, seed), torch.Generator().manual_seed(seed), num_rows)


def in_double(target: Target) -> Target:
    """The same target with float64 coordinates and scales, for sharp comparisons."""
    values = dict(target.__dict__)
    # Gauge-fixed anew: float32 coordinates have an RMS radius of 1 to 1e-7 only.
    values["xy"] = gauge_fix(target.xy.double(), target.graph, target.num_graphs)
    values["scale"] = target.scale.double()
    return Target(**values)


def dense_operator(x: np.ndarray, adjacent: np.ndarray, scale: np.ndarray) -> np.ndarray:
    w = np.where(adjacent, np.exp(-(cdist(x, x) ** 2) / np.outer(scale, scale)), 0.0)
    w = (w + w.T) / 2
    return w / w.sum(1, keepdims=True)


def dense_terms(x: np.ndarray, target: Target, steps: int) -> dict[str, float]:
    """All terms from n x n matrices, written from the formulas and sharing no code."""
    truth, scale = target.xy.numpy().astype(float), target.scale.numpy().astype(float)
    n = len(truth)
    x = x - x.mean(0)
    x = x / np.sqrt((x**2).sum(1).mean())
    adjacent = np.zeros((n, n), bool)
    adjacent[target.edges.dst.numpy(), target.edges.src.numpy()] = True
    t_ref, t_pred = (dense_operator(c, adjacent, scale) for c in (truth, x))
    rw, p, q = 0.0, np.eye(n), np.eye(n)
    for s in range(steps):
        p, q = p @ t_ref, q @ t_pred
        rw += 0.5**s * np.mean((p * (np.log(p + 1e-12) - np.log(q + 1e-12))).sum(1))
    i, j = target.pairs.numpy()
    ratio = np.log(cdist(x, x)[i, j]) - np.log(cdist(truth, truth)[i, j])
    a, b = target.random_pairs.numpy()
    positive = np.where(adjacent, t_pred, 1.0)
    return {
        "rw": rw,
        "stress": float(np.var(ratio)),
        "repulsion": float(np.mean(np.exp(-(cdist(x, x)[a, b] ** 2) / 0.01))),
        "entropy": float(np.mean((positive * np.log(positive)).sum(1))),
        "procrustes": float(procrustes(truth, x)[2]),
    }


@pytest.mark.parametrize("n", [60, 161, 320])
def test_terms_equal_dense_formulas(n: int) -> None:
    target = in_double(target_of(n))
    x = torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = 0.4 * x + target.xy
    found = geometry_terms(x, target)
    wanted = dense_terms(x.numpy(), target, graphs.walk_steps(n))
    for name, value in wanted.items():
        assert found[name].item() == pytest.approx(value, rel=1e-9, abs=1e-10), name
    assert found.e_geo.item() == pytest.approx(wanted["rw"] + 0.1 * wanted["stress"], rel=1e-9)


@pytest.mark.parametrize("n", [40, 200])
def test_truth_has_no_error(n: int) -> None:
    target = target_of(n)
    operator = build_predicted_rw_operator(target.xy, target.edges, target.scale)
    again = build_predicted_rw_operator(target.xy, target.edges, target.scale)
    assert torch.equal(operator.log_t, again.log_t)
    terms = geometry_terms(target.xy, target)
    # The layout is gauge-fixed once more, which rounds; nothing else differs.
    assert abs(terms["rw"].item()) < 1e-6
    assert terms["stress"].item() < 1e-10


@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_invariant_to_pose_and_scale(mirror: float) -> None:
    target = in_double(target_of(150))
    x = points(150, 3).double()
    angle = 0.7
    rotation = torch.tensor(
        [
            [np.cos(angle), -np.sin(angle)],
            [mirror * np.sin(angle), mirror * np.cos(angle)],
        ],
        dtype=torch.float64,
    )
    moved = 5.0 * x @ rotation.T + torch.tensor([10.0, -3.0])
    for name, value in geometry_terms(x, target).__dict__.items():
        torch.testing.assert_close(
            getattr(geometry_terms(moved, target), name), value, rtol=1e-9, atol=1e-12
        )


def test_union_equals_its_members() -> None:
    """Neither other graphs of the batch nor their order changes a graph's terms."""
    targets = [in_double(target_of(n, seed)) for seed, n in enumerate((70, 190, 45))]
    layouts = [points(len(t.xy), 9).double() for t in targets]
    alone = [geometry_terms(x, t) for x, t in zip(layouts, targets, strict=True)]
    for order in ((0, 1, 2), (2, 0, 1)):
        union = geometry_terms(
            torch.cat([layouts[i] for i in order]), union_targets([targets[i] for i in order])
        )
        for name in TERMS:
            expected = torch.cat([alone[i][name] for i in order])
            torch.testing.assert_close(union[name], expected, rtol=1e-10, atol=1e-12)


def test_sampled_rows_are_unbiased_and_complete() -> None:
    full = target_of(100, num_rows=None)
    x = points(100, 4)

    def rw(rows: torch.Tensor) -> float:
        target = Target(**{**full.__dict__, "rows": rows})
        predicted = build_predicted_rw_operator(gauge_fix(x), full.edges, full.scale)
        reference = build_predicted_rw_operator(full.xy, full.edges, full.scale)
        return loss_rw_kl(predicted, reference, target).item()

    assert target_of(100, num_rows=100).rows.tolist() == list(range(100))
    # A partition into four quarters: their mean must be the full loss exactly.
    order = torch.randperm(100, generator=torch.Generator().manual_seed(2))
    quarters = [rw(part.sort().values) for part in order.split(25)]
    assert np.mean(quarters) == pytest.approx(rw(full.rows), rel=1e-5)
    assert np.ptp(quarters) > 1e-3  # they are different samples


def test_gradients_of_all_terms() -> None:
    target = in_double(target_of(24))
    x = points(24, 6).double().requires_grad_()

    def total(x: torch.Tensor) -> torch.Tensor:
        terms = geometry_terms(x, target)
        return terms.energy(E_GEO) + terms["procrustes"]

    assert torch.autograd.gradcheck(total, (x,), eps=1e-6, atol=1e-6)


def test_gate_target_and_loss() -> None:
    target = in_double(target_of(80))
    h = torch.randn(80, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    candidates = knn_edges(h, 15)
    wanted = gate_target(target, candidates)
    n = 80
    adjacent = np.zeros((n, n), bool)
    adjacent[target.edges.dst.numpy(), target.edges.src.numpy()] = True
    dense = dense_operator(target.xy.numpy(), adjacent, target.scale.numpy())
    np.testing.assert_allclose(wanted, dense[candidates.dst, candidates.src], atol=1e-12)

    logit = torch.randn(candidates.num_edges, dtype=torch.float64)
    total, rows = 0.0, 0
    for i in range(n):
        row = slice(int(candidates.ptr[i]), int(candidates.ptr[i + 1]))
        p = wanted[row].numpy()
        if p.sum() == 0:
            continue
        p = p / p.sum()
        q = np.exp(logit[row].numpy())
        q /= q.sum()
        total += np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0]))
        rows += 1
    found = loss_gate(logit, candidates, wanted, target).item()
    assert found == pytest.approx(total / rows, rel=1e-10)
    perfect = torch.where(wanted > 0, wanted, 1e-300).log()
    assert loss_gate(perfect, candidates, wanted, target).item() == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("walk", ["one_step", "two_steps", "mixed"])
def test_gate_targets_are_powers_of_the_dense_operator(walk: str) -> None:
    """Of a union, too, whose graphs do not see each other."""
    target = union_targets([in_double(target_of(n, seed)) for seed, n in enumerate((60, 45))])
    h = torch.randn(105, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parts = [knn_edges(part, 15) for part in h.split([60, 45])]
    candidates = EdgeList.disjoint_union(parts)
    adjacent = np.zeros((105, 105), bool)
    adjacent[target.edges.dst.numpy(), target.edges.src.numpy()] = True
    one = dense_operator(target.xy.numpy(), adjacent, target.scale.numpy())
    dense = {"one_step": one, "two_steps": one @ one, "mixed": (one + one @ one) / 2}[walk]
    found = gate_target(target, candidates, walk)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, dense[candidates.dst, candidates.src], atol=1e-12)
    assert (found > 0).any()


def test_gate_loss_of_heads_is_their_mean() -> None:
    target = in_double(target_of(50))
    candidates = knn_edges(torch.randn(50, 5, dtype=torch.float64), 12)
    wanted = gate_target(target, candidates)
    logit = torch.randn(candidates.num_edges, 3, dtype=torch.float64, requires_grad=True)
    together = loss_gate(logit, candidates, wanted, target)
    alone = [loss_gate(column, candidates, wanted, target) for column in logit.unbind(1)]
    torch.testing.assert_close(together, torch.stack(alone).mean(0))
    small = torch.randn(4 * 3, 2, dtype=torch.float64, requires_grad=True)
    edges = candidates.select(torch.arange(candidates.num_edges) < 12)
    wanted = torch.rand(12, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: loss_gate(x, edges, wanted, target), (small,))


def test_gate_loss_without_any_true_candidate_is_zero() -> None:
    target = target_of(30)
    candidates = knn_edges(torch.randn(30, 3), 4)
    logit = torch.randn(candidates.num_edges, requires_grad=True)
    loss = loss_gate(logit, candidates, torch.zeros(candidates.num_edges), target)
    loss.sum().backward()
    assert loss.item() == 0
    assert torch.equal(logit.grad, torch.zeros_like(logit))


def test_collapse_diagnostics() -> None:
    graph = torch.repeat_interleave(torch.tensor([200, 200, 200]))
    generator = torch.Generator().manual_seed(0)
    round_, line = (torch.randn(200, 2, generator=generator) for _ in range(2))
    line[:, 1] *= 0.01
    point = torch.zeros(200, 2)
    pairs = torch.cat(
        [torch.stack([torch.arange(100), torch.arange(100, 200)]) + 200 * b for b in range(3)], 1
    )
    ratio, median = collapse_diagnostics(torch.cat([round_, line, point]), graph, 3, pairs)
    covariance = np.linalg.eigvalsh(np.cov(round_.numpy().T, bias=True))
    assert ratio[0].item() == pytest.approx(covariance[0] / covariance[1], rel=1e-4)
    assert ratio[1] < 0.01
    assert median[2] < 0.01 < median[0]


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_layouts_are_scored_in_float32(kind: torch.dtype) -> None:
    target = target_of(60)
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(1)).to(kind)
    with torch.autocast("cpu", torch.bfloat16):
        inside = geometry_terms(x, target)
    plain = geometry_terms(x.float(), target)
    for name, value in plain.values.items():
        assert inside[name].dtype == torch.float32
        assert torch.equal(inside[name], value), name
    assert gauge_fix(x).dtype == torch.float32
    assert gauge_fix(x.double()).dtype == torch.float64
    edges = knn_edges(points(60), 8)
    wanted = gate_target(target, edges)
    logit = torch.randn(edges.num_edges, generator=torch.Generator().manual_seed(2)).to(kind)
    gate = loss_gate(logit, edges, wanted, target)
    assert torch.equal(gate, loss_gate(logit.float(), edges, wanted, target))


def test_every_term_has_its_weight_and_every_weight_a_term() -> None:
    """The gate's KL scores a graph, not a layout: a weight without a row."""
    assert {f.name for f in fields(LossWeights)} - {"gate"} == set(TERMS)


def test_a_term_of_weight_zero_is_off_whatever_it_is() -> None:
    values = {name: torch.ones(3, dtype=torch.float64) for name in TERMS}
    values["procrustes"] = values["repulsion"] = torch.full((3,), torch.nan)
    weights = LossWeights(rw=0.0, stress=2.0, repulsion=0.0, entropy=0.5, procrustes=0.0)
    terms = GeometryTerms(values)
    assert terms.energy(weights).tolist() == [2.5] * 3
    assert terms.loss(weights).item() == 2.5


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_weights_that_are_no_weights_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"weights\.stress must be finite and not negative"):
        LossWeights(stress=value)
