"""The model that moves points: its size, its formula, its symmetries."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from common.graph.edges import EdgeList
from common.graph.knn import knn_edges
from spatial_ipa.geometry.gauge import gauge_fix
from spatial_ipa.model.gate import SimilarityGate
from spatial_ipa.model.network import NetworkSettings
from spatial_ipa.model.points import IPAPointsModel


def shaken(heads: int = 2, recycles: int = 2) -> tuple[IPAPointsModel, SimilarityGate]:
    """Model and gate in float64, none of whose weights is 0."""
    torch.manual_seed(0)
    model = IPAPointsModel(NetworkSettings(5, heads=heads, recycles=recycles)).double()
    gate = SimilarityGate().double()
    generator = torch.Generator().manual_seed(1)
    for parameter in (*model.parameters(), *gate.parameters()):
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = parameter.data + 0.3 * noise
    return model, gate


def example(n: int = 24, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, EdgeList]:
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(n, 5, generator=generator, dtype=torch.float64)
    return h, torch.randn(n, 2, generator=generator, dtype=torch.float64), knn_edges(h, 6)


def test_parameter_counts() -> None:
    """Per head: sharpness, beta, gamma and alpha; the perceptron 9 -> 32 -> 4."""
    model = IPAPointsModel()
    assert sum(p.numel() for p in model.parameters()) == 4 * 4 + 9 * 32 + 32 + 32 * 4
    assert sum(p.numel() for p in SimilarityGate().parameters()) == 1


def test_the_gate_ranks_as_the_cosine_does() -> None:
    h, _, edges = example()
    gate, unit = SimilarityGate().double(), torch.nn.functional.normalize(h, dim=1)
    cosine = (unit[edges.dst] * unit[edges.src]).sum(1)
    torch.testing.assert_close(gate(h, edges), 5 * cosine)


def test_a_fresh_model_returns_its_start() -> None:
    h, start, edges = example()
    layout = IPAPointsModel(NetworkSettings(5)).double()(h, edges, None, start=start)
    torch.testing.assert_close(layout.x, gauge_fix(start))
    assert len(layout.trajectory) == 6
    assert layout.states == []


def test_a_recycle_equals_loops_over_cells() -> None:
    model, gate = shaken(recycles=1)
    h, start, edges = example()
    logit = gate(h, edges)
    found = model(h, edges, logit, start=start).x
    x, block = gauge_fix(start), model.block
    features = block.features(h, x, edges)
    moved = x.clone()
    for i in range(len(x)):
        rows = [e for e in range(edges.num_edges) if int(edges.dst[e]) == i]
        for head in range(block.heads):
            scores = []
            for e in rows:
                distance = float((x[i] - x[edges.src[e]]).square().sum())
                inner = functional.gelu(features[e] @ block.mlp[0].weight.T + block.mlp[0].bias)
                learned = inner @ block.mlp[2].weight[head]
                scores.append(
                    block.sharpness[head] * features[e, 0]
                    + block.beta[head] * logit[e]
                    + learned
                    - math.log1p(math.exp(block.gamma[head].item())) * distance
                )
            weight = torch.softmax(torch.stack(scores), 0)
            for w, e in zip(weight, rows, strict=True):
                moved[i] = moved[i] + block.alpha[head] * w * (x[edges.src[e]] - x[i])
    torch.testing.assert_close(found, gauge_fix(moved))


@pytest.mark.parametrize("mirror", [False, True])
def test_turning_the_start_turns_the_layout_and_turning_h_changes_nothing(mirror: bool) -> None:
    model, gate = shaken()
    h, start, edges = example()
    c, s = math.cos(0.7), math.sin(0.7)
    turn = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    turn = turn @ torch.diag(torch.tensor([-1.0 if mirror else 1.0, 1.0], dtype=torch.float64))
    q = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
    plain = model(h, edges, gate(h, edges), start=start).x
    moved = model(h @ q, edges, gate(h @ q, edges), start=2 * start @ turn + 3).x
    torch.testing.assert_close(moved, plain @ turn)


def test_graphs_of_a_union_do_not_see_each_other() -> None:
    model, gate = shaken()
    parts = [example(24, 0), example(17, 1)]
    alone = [model(h, e, gate(h, e), start=x).x for h, x, e in parts]
    h, start = (torch.cat([p[i] for p in parts]) for i in (0, 1))
    edges = EdgeList.disjoint_union([p[2] for p in parts])
    graph = torch.repeat_interleave(torch.tensor([24, 17]))
    together = model(h, edges, gate(h, edges), graph, 2, start=start).x
    torch.testing.assert_close(together, torch.cat(alone))


def test_gradients_reach_every_parameter() -> None:
    model, gate = shaken()
    h, start, edges = example()
    model(h, edges, gate(h, edges), start=start).x.square().mul(torch.randn(24, 2)).sum().backward()
    for name, p in (*model.named_parameters(), *gate.named_parameters()):
        assert p.grad is not None, name
        assert p.grad.abs().max() > 0, name


def test_heads_of_a_fresh_block_differ() -> None:
    """Equal heads have equal gradients, and would stay one head for ever."""
    sharpness = IPAPointsModel().block.sharpness
    assert len(set(sharpness.tolist())) == len(sharpness)


def test_without_a_start_it_says_so() -> None:
    h, _, edges = example()
    model, gate = shaken()
    with pytest.raises(ValueError, match=r"starts at positions by regression .* none were given"):
        model(h, edges, gate(h, edges))
