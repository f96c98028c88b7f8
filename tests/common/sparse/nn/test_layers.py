"""Beside PyG: gradients, randomness, what is refused, and the equivariant layer."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from layer_problems import EDGE_FEATURES, FEATURES, NODES, assert_same, draw, messy_edges
from torch import nn

from common.graph.edges import EdgeList
from common.sparse import nn as ours
from common.sparse.nn import GATv2Conv, PointAttentionConv, PointTransformerConv, TransformerConv
from common.sparse.nn import pair_scores as pair_scores_module

SMALL = torch.tensor(
    [[0, 0, 1, 3, 3, 2, 0], [1, 1, 1, 0, 2, 2, 2]]
)  # a double edge, loops, a lone node


@pytest.mark.parametrize(
    ("layer", "with_edges"),
    [
        (TransformerConv(3, 2, heads=2, beta=True), False),
        (TransformerConv(3, 2, heads=2, edge_dim=2), True),
        (GATv2Conv(3, 2, heads=2, edge_dim=2), True),
        (GATv2Conv(3, 2, heads=2, concat=False, residual=True), False),
    ],
    ids=["transformer", "transformer, edges", "gatv2, edges", "gatv2"],
)
def test_gradients_match_finite_differences(layer: nn.Module, with_edges: bool) -> None:
    layer = layer.double()
    x = draw(5, 3, dtype=torch.float64).requires_grad_()
    attr = [draw(7, 2, dtype=torch.float64).requires_grad_()] if with_edges else []
    names = [name for name, _ in layer.named_parameters()]
    weights = [p.detach().requires_grad_() for p in layer.parameters()]

    def call(*inputs: torch.Tensor) -> torch.Tensor:
        node, rest = inputs[0], inputs[1:]
        values = dict(zip(names, rest[len(attr) :], strict=True))
        return torch.func.functional_call(layer, values, (node, SMALL, *rest[: len(attr)]))

    assert torch.autograd.gradcheck(call, (x, *attr, *weights))


def test_point_layers_match_finite_differences() -> None:
    x, pos = (draw(5, 3, seed=s, dtype=torch.float64).requires_grad_() for s in (0, 1))
    attention = PointAttentionConv(3, 2, heads=2, edge_dim=2).double()
    nn.init.normal_(attention.step)
    attr = draw(7, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda *t: attention(t[0], t[1], SMALL, t[2]), (x, pos, attr))
    transformer = PointTransformerConv(3, 2, attn_nn=nn.Linear(2, 2)).double()
    assert torch.autograd.gradcheck(lambda *t: transformer(*t, SMALL), (x, pos))


def test_blocks_of_edges_do_not_change_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = GATv2Conv(FEATURES, 6, heads=2, edge_dim=EDGE_FEATURES).double()
    x, index = draw(NODES, FEATURES, dtype=torch.float64), messy_edges()
    attr = draw(index.shape[1], EDGE_FEATURES, dtype=torch.float64)
    results = []
    for size in (2**18, 12 * 7):
        monkeypatch.setattr(pair_scores_module, "_BLOCK_VALUES", size)
        out = layer(x, index, attr)
        results.append([out, *torch.autograd.grad(out.square().sum(), layer.parameters())])
    assert_same(*results, tolerance=1e-12)


@pytest.mark.parametrize("kind", [TransformerConv, GATv2Conv])
def test_dropout(kind: type[nn.Module]) -> None:
    """The same seed gives the same bits, another other ones; the mean over many is that without."""
    torch.manual_seed(0)
    layer = kind(FEATURES, 6, heads=2, dropout=0.3)  # type: ignore[call-arg]
    x, index = draw(NODES, FEATURES), messy_edges()
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(layer(x, index).detach())
    assert torch.equal(runs[0], runs[1])
    assert not torch.allclose(runs[0], runs[2])
    without = layer.eval()(x, index).detach()
    layer.train()
    many = torch.stack([layer(x, index).detach() for _ in range(2000)])
    error = many.std(0) / len(many) ** 0.5
    away = ((many.mean(0) - without).abs() / error.clamp(min=1e-7)).flatten()
    assert float(away.max()) < 5  # of 276 entries, in standard errors
    assert float(many.std(0).max()) > 0.01


def test_all_dropped_leaves_the_skip_connection() -> None:
    layer = TransformerConv(FEATURES, 6, dropout=1.0)
    x = draw(NODES, FEATURES)
    assert_same([layer(x, messy_edges())], [layer.lin_skip(x)])


@pytest.mark.parametrize("name", ["TransformerConv", "GATv2Conv", "PointTransformerConv"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggr": "max"}, "{name}: aggr='max' is not supported"),
        ({"aggr_kwargs": {"p": 1}}, "{name}: aggr_kwargs=.* is not supported"),
        ({"flow": "sideways"}, "{name}: flow must be one of"),
        ({"decomposed_layers": 2}, "{name}: decomposed_layers=2 is not supported"),
        ({"in_channels": -1}, r"taken from the first input \(-1\) are not supported"),
    ],
)
def test_refused_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.format(name=name)):
        getattr(ours, name)(**{"in_channels": 3, "out_channels": 2, **options})


def test_refused_calls() -> None:
    x, index = draw(NODES, FEATURES), messy_edges()
    attr = draw(index.shape[1], EDGE_FEATURES)
    for kind in (TransformerConv, GATv2Conv):
        with pytest.raises(ValueError, match=f"{kind.__name__}: edge_attr needs edge_dim=5"):
            kind(FEATURES, 6)(x, index, attr)
        layer = kind(FEATURES, 6, edge_dim=EDGE_FEATURES)
        with pytest.raises(ValueError, match=r"\(E, edge_dim\) = \(150, 5\), got \(149, 5\)"):
            layer(x, index, attr[1:])
    for kind, arguments in (
        (TransformerConv, (x, index)),
        (PointAttentionConv, (x, draw(NODES, 3), index)),
    ):
        with pytest.raises(ValueError, match=f"{kind.__name__}: edge_attr is missing"):
            kind(FEATURES, 6, edge_dim=EDGE_FEATURES)(*arguments)
    with pytest.raises(ValueError, match=r"GATv2Conv: fill_value must be .*, got 'median'"):
        GATv2Conv(FEATURES, 6, fill_value="median")
    with pytest.raises(ValueError, match="pos must have a row for each source node"):
        PointTransformerConv(FEATURES, 6)(x, draw(NODES - 1, 3), index)
    sides = (draw(19, FEATURES), draw(8, FEATURES))
    with pytest.raises(ValueError, match="19 sources and 8 destinations is not supported"):
        GATv2Conv(FEATURES, 6, flow="target_to_source")(sides, messy_edges(19, 8))


def test_layers_can_be_copied_and_moved() -> None:
    layer = GATv2Conv(FEATURES, 6, heads=2)
    x, index = draw(NODES, FEATURES), messy_edges()
    want = layer(x, index)
    assert torch.equal(copy.deepcopy(layer)(x, index), want)
    assert layer.double()(x.double(), index).dtype == torch.float64


def test_pyg_is_not_imported() -> None:
    code = "import sys, common.sparse.nn; assert 'torch_geometric' not in sys.modules"
    root = Path(__file__).resolve().parents[4]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_point_attention_in_dense_form() -> None:
    """Against softmax over a dense mask; edges given twice count twice."""
    rng = torch.Generator().manual_seed(2)
    layer = PointAttentionConv(FEATURES, 4, heads=3, edge_dim=2).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(generator=rng)
    x, pos = (draw(NODES, n, dtype=torch.float64) for n in (FEATURES, 3))
    mask = torch.rand(NODES, NODES, generator=rng) < 0.3
    mask[6] = False
    edges = EdgeList.from_edge_index(mask.T.nonzero().T, NODES)
    attr = draw(edges.num_edges, 2, dtype=torch.float64)
    table = torch.zeros(NODES, NODES, 2, dtype=torch.float64)
    table[edges.dst, edges.src] = attr
    q, k, v = (
        linear(x).view(NODES, 3, 4) for linear in (layer.lin_query, layer.lin_key, layer.lin_value)
    )
    away = pos[None] - pos[:, None]
    decay = nn.functional.softplus(layer.decay)
    logits = torch.einsum("ihc,jhc->ijh", q, k) / 2 - decay * away.square().sum(-1, keepdim=True)
    logits = logits + layer.lin_edge(table)
    weights = logits.masked_fill(~mask[..., None], -torch.inf).softmax(1).nan_to_num(0)
    out = torch.einsum("ijh,jhc->ihc", weights, v).flatten(1) + layer.lin_skip(x)
    moved = pos + torch.einsum("h,ijh,ijp->ip", layer.step, weights, away)
    got = layer(x, pos, edges, attr)
    assert_same(got, [out, moved], tolerance=1e-12)
    assert torch.equal(got[1][6], pos[6]), "nothing moves a point without edges"


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_point_attention_turns_with_its_input(dimensions: int, mirror: bool) -> None:
    torch.manual_seed(0)
    layer = PointAttentionConv(FEATURES, 4, heads=3).double()
    nn.init.normal_(layer.step)
    x, pos = (draw(NODES, n, dtype=torch.float64) for n in (FEATURES, dimensions))
    turn = torch.linalg.qr(draw(dimensions, dimensions, dtype=torch.float64)).Q
    if (torch.linalg.det(turn) < 0) != mirror:
        turn[:, 0] *= -1
    index = messy_edges()
    out, moved = layer(x, pos, index)
    assert not torch.allclose(moved, pos)
    again, moved_again = layer(x, pos @ turn.T + 3.0, index)
    assert_same([again, moved_again], [out, moved @ turn.T + 3.0], tolerance=1e-10)


def test_point_attention_starts_without_moving_points() -> None:
    layer = PointAttentionConv(FEATURES, 4)
    pos = draw(NODES, 3)
    _, moved = layer(draw(NODES, FEATURES), pos, messy_edges())
    assert torch.equal(moved, pos)
    torch.testing.assert_close(nn.functional.softplus(layer.decay), torch.ones(1))
