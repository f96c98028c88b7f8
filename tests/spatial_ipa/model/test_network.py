"""Gate, block and model: exact sizes, symmetries, batches, gradients, empty rows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from common.graph.edges import EdgeList
from common.graph.knn import knn_edges
from spatial_ipa.model.block import IPALiteBlock, _graph_median
from spatial_ipa.model.gate import EdgeGateSoft
from spatial_ipa.model.network import NetworkSettings
from spatial_ipa.model.recycle import Recycle
from spatial_ipa.model.states import IPALiteModel


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("c_s", "d", "count"), [(64, 64, 78_550), (96, 64, 136_246), (96, 128, 154_678)]
)
def test_parameter_counts(c_s: int, d: int, count: int) -> None:
    """The counts of the reference design, with the four gamma of the distance term and without."""
    assert parameters(IPALiteModel(NetworkSettings(d, c_s, distance_term="monotone"))) == count
    assert parameters(IPALiteModel(NetworkSettings(d, c_s))) == count - 4


def test_gate_parameter_count() -> None:
    assert parameters(EdgeGateSoft()) == 37_057


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """The module with its zero-initialised parts made random, in float64."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if not bool(parameter.any()):
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.double()


def inputs(n: int, d: int = 16, k: int = 9, seed: int = 0) -> tuple[torch.Tensor, EdgeList]:
    h = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return h, knn_edges(h, k)


def small_model(**options: object) -> IPALiteModel:
    torch.manual_seed(0)
    model = shaken(IPALiteModel(NetworkSettings(16, 12, 2, 4, **options)))  # type: ignore[arg-type]
    assert isinstance(model, IPALiteModel)
    return model


def test_gate_equals_mlp_on_concatenated_features() -> None:
    h, edges = inputs(40)
    torch.manual_seed(1)
    gate = EdgeGateSoft(16, 8).double()
    hi, hj = h[edges.dst], h[edges.src]
    features = torch.cat([hi, hj, (hi - hj).abs(), hi * hj], 1)
    hidden = nn.functional.gelu(features @ gate.w1.T + gate.b1)
    hidden = nn.functional.gelu(hidden @ gate.w2.T + gate.b2)
    expected = (hidden @ gate.w3.T + gate.b3)[:, 0]
    torch.testing.assert_close(gate(h, edges), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("distance_term", ["none", "rbf", "monotone"])
def test_nodes_may_be_renamed(distance_term: str) -> None:
    model = small_model(distance_term=distance_term)
    h, edges = inputs(50)
    gate = torch.randn(edges.num_edges, dtype=torch.float64)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(3))
    place = torch.empty_like(order)
    place[order] = torch.arange(50)
    renamed = place[edges.edge_index]
    moved = EdgeList.from_edge_index(renamed, 50)
    position = torch.argsort(renamed[1] * 50 + renamed[0])
    x = model(h, edges, gate).x
    y = model(h[order], moved, gate[position]).x
    torch.testing.assert_close(y, x[order], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("distance_term", ["none", "rbf", "monotone"])
def test_batch_neighbours_do_not_matter(distance_term: str) -> None:
    model = small_model(distance_term=distance_term)
    parts = [inputs(n, seed=n) for n in (30, 12, 45)]
    alone = torch.cat([model(h, e, None).x for h, e in parts])
    graph = torch.repeat_interleave(torch.tensor([30, 12, 45]))
    union = EdgeList.disjoint_union([e for _, e in parts])
    together = model(torch.cat([h for h, _ in parts]), union, None, graph, 3).x
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-10)


def test_block_commutes_with_pose_where_it_should() -> None:
    """States ignore the pose; with W_x a multiple of 1 the step turns with the coordinates."""
    torch.manual_seed(0)
    block = shaken(IPALiteBlock(12, 2, 4))
    assert isinstance(block, IPALiteBlock)
    block.w_x.data = torch.tensor([0.3, -0.2], dtype=torch.float64)[:, None, None] * torch.eye(2)
    _h, edges = inputs(30)
    s = torch.randn(30, 12, dtype=torch.float64)
    x = torch.randn(30, 2, dtype=torch.float64)
    mirror_turn = torch.tensor([[0.6, 0.8], [0.8, -0.6]], dtype=torch.float64)
    shift = torch.tensor([4.0, -1.0])
    graph = torch.zeros(30, dtype=torch.int64)
    s1, x1 = block(Recycle(0, s, x, edges, None, graph, 1))
    s2, x2 = block(Recycle(0, s, x @ mirror_turn.T + shift, edges, None, graph, 1))
    torch.testing.assert_close(s2, s1)
    torch.testing.assert_close(x2, x1 @ mirror_turn.T + shift)


def test_fresh_block_changes_nothing() -> None:
    model = IPALiteModel(NetworkSettings(16, 12, 2, 4))
    h, edges = inputs(30)
    layout = model(h.float(), edges, None)
    for x in layout.trajectory[1:]:
        torch.testing.assert_close(x, layout.trajectory[0], rtol=1e-5, atol=1e-6)


def test_isolated_nodes_stay_and_stay_finite() -> None:
    model = small_model()
    h, _ = inputs(10)
    edges = EdgeList.from_edge_index(torch.tensor([[1, 2], [0, 0]]), 10)
    h.requires_grad_()
    x = model(h, edges, torch.zeros(2, dtype=torch.float64)).x
    x.square().sum().backward()
    assert torch.isfinite(x).all()
    assert torch.isfinite(h.grad).all()


def test_start_noise_is_scaled() -> None:
    model = small_model(noise_std=0.0)
    h, edges = inputs(20)
    noise = torch.randn(20, 2, dtype=torch.float64)
    assert torch.equal(model(h, edges, None, start_noise=noise).x, model(h, edges, None).x)
    model.noise_std = 0.05
    assert not torch.equal(model(h, edges, None, start_noise=noise).x, model(h, edges, None).x)


def test_gradients_reach_every_parameter() -> None:
    model, gate = small_model(), EdgeGateSoft(16, 8).double()
    h, edges = inputs(14, k=4)
    weight = torch.randn(14, 2, dtype=torch.float64)
    (model(h, edges, gate(h, edges)).x * weight).sum().backward()
    for name, parameter in [*model.named_parameters(), *gate.named_parameters()]:
        assert parameter.grad is not None, name
        # Shifting every logit of a row by the same amount changes nothing: b3 has no effect.
        if name != "b3":
            assert parameter.grad.abs().max() > 0, name


def test_graph_median() -> None:
    value = torch.tensor([3.0, 1.0, 2.0, 9.0, 4.0, 8.0])
    graph = torch.tensor([0, 0, 0, 2, 2, 2])
    assert _graph_median(value, graph, 3)[[0, 2]].tolist() == [2.0, 8.0]


def test_unknown_distance_term() -> None:
    with pytest.raises(ValueError, match="none, rbf or monotone, got 'cubic'"):
        IPALiteBlock(8, 2, 4, distance_term="cubic")  # type: ignore[arg-type]
