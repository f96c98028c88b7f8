"""The twins against PyG's layers: results, attention weights, gradients, weights, options."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from layer_problems import (
    EDGE_FEATURES,
    FEATURES,
    NODES,
    assert_same,
    draw,
    messy_edges,
    results_and_gradients,
)
from torch import Tensor, nn
from torch_geometric import nn as pyg

from common.sparse import nn as ours
from common.sparse import use_backend

Options = dict[str, Any]

TRANSFORMER: list[Options] = [
    {},
    {"heads": 3},
    {"heads": 3, "concat": False},
    {"heads": 2, "beta": True},
    {"heads": 2, "beta": True, "concat": False, "edge_dim": EDGE_FEATURES},
    {"heads": 3, "edge_dim": EDGE_FEATURES},
    {"heads": 2, "bias": False},
    {"heads": 2, "root_weight": False, "beta": True},
    {"heads": 2, "flow": "target_to_source", "edge_dim": EDGE_FEATURES},
    {"heads": 65},
    {"heads": 3, "dropout": 0.4, "edge_dim": EDGE_FEATURES},
    {"heads": 2, "dropout": 0.4, "concat": False},
    {"aggr": "sum", "decomposed_layers": 1, "aggr_kwargs": None},
]
GATV2: list[Options] = [
    {},
    {"heads": 3},
    {"heads": 3, "concat": False, "negative_slope": 0.05},
    {"heads": 2, "add_self_loops": False},
    {"heads": 2, "share_weights": True, "residual": True},
    {"heads": 2, "bias": False, "residual": True, "concat": False},
    {"heads": 3, "edge_dim": EDGE_FEATURES},
    {"heads": 2, "edge_dim": EDGE_FEATURES, "add_self_loops": False},
    *({"edge_dim": EDGE_FEATURES, "fill_value": how} for how in ("add", "min", "max", "mul", 0.7)),
    {"edge_dim": EDGE_FEATURES, "fill_value": torch.arange(EDGE_FEATURES) / 3},
    {"heads": 2, "edge_dim": 1},
    {"heads": 2, "flow": "target_to_source", "edge_dim": EDGE_FEATURES},
    {"heads": 2, "flow": "target_to_source", "share_weights": True},
    {"heads": 3, "dropout": 0.4, "edge_dim": EDGE_FEATURES},
]
CASES = [
    *(("TransformerConv", options) for options in TRANSFORMER),
    *(("GATv2Conv", options) for options in GATV2),
]


def case_id(value: object) -> str | None:
    if not isinstance(value, dict):
        return None
    return ",".join(f"{k}={v}" for k, v in value.items()) or "defaults"


def twins(
    name: str, options: Options, channels: Any = FEATURES, dtype: torch.dtype = torch.float32
) -> tuple[nn.Module, nn.Module]:
    """PyG's layer and ours, each with its own initial weights from the same seed."""
    layers = []
    for module in (pyg, ours):
        torch.manual_seed(1)
        layers.append(getattr(module, name)(channels, 6, **options).to(dtype))
    return layers[0], layers[1]


def edge_attr_for(options: Options, count: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    width = options.get("edge_dim")
    return [] if width is None else [draw(count, width, dtype=dtype)]


@pytest.mark.parametrize(("name", "options"), CASES, ids=case_id)
def test_results_and_gradients(name: str, options: Options) -> None:
    """Dropout, too: the same seed drops the same edges."""
    theirs, mine = twins(name, options)
    index = messy_edges()
    inputs = [draw(NODES, FEATURES), index, *edge_attr_for(options, index.shape[1])]
    want, want_gradients = results_and_gradients(theirs, inputs, seed=3)
    got, got_gradients = results_and_gradients(mine, inputs, seed=3)
    assert_same(got, want)
    assert_same(got_gradients, want_gradients)


@pytest.mark.parametrize(("name", "options"), CASES, ids=case_id)
def test_attention_weights(name: str, options: Options) -> None:
    """Edges, weights in their order, and gradients through the weights."""
    theirs, mine = twins(name, options)
    index = messy_edges()
    inputs = [draw(NODES, FEATURES), index, *edge_attr_for(options, index.shape[1])]
    want, want_gradients = results_and_gradients(
        theirs, inputs, seed=3, return_attention_weights=True
    )
    got, got_gradients = results_and_gradients(mine, inputs, seed=3, return_attention_weights=True)
    assert_same(got, want)
    assert_same(got_gradients, want_gradients)
    edges_of = [layer(*inputs, return_attention_weights=True)[1][0] for layer in (theirs, mine)]
    assert torch.equal(*edges_of)


@pytest.mark.parametrize(("name", "options"), CASES, ids=case_id)
def test_weights_and_state(name: str, options: Options) -> None:
    """The same initial weights from a seed; checkpoints, also of optimizers, lead both ways."""
    theirs, mine = twins(name, options)
    assert list(mine.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert torch.equal(mine.state_dict()[key], value), key
    assert [n for n, _ in mine.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    for target, source in ((mine, theirs), (theirs, mine)):
        with torch.no_grad():
            for parameter in source.parameters():
                parameter.normal_()
        target.load_state_dict(source.state_dict(), strict=True)
    torch.manual_seed(5)
    theirs.reset_parameters()
    torch.manual_seed(5)
    mine.reset_parameters()
    for key, value in theirs.state_dict().items():
        assert torch.equal(mine.state_dict()[key], value), key


@pytest.mark.parametrize("name", ["TransformerConv", "GATv2Conv", "PointTransformerConv"])
def test_signatures(name: str) -> None:
    """The same names, order and defaults; what PyG hides in ``**kwargs`` is by keyword alone."""
    theirs = inspect.signature(getattr(pyg, name).__init__).parameters
    mine = inspect.signature(getattr(ours, name).__init__).parameters
    open_names = [n for n, p in theirs.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [n for n, p in mine.items() if p.kind is p.POSITIONAL_OR_KEYWORD] == open_names
    assert all(mine[n].default == theirs[n].default for n in open_names)
    their_call = inspect.signature(getattr(pyg, name).forward).parameters
    assert list(inspect.signature(getattr(ours, name).forward).parameters) == list(their_call)


@pytest.mark.parametrize("name", ["TransformerConv", "GATv2Conv"])
@pytest.mark.parametrize("sides", [(19, 8), (8, 19)], ids=str)
@pytest.mark.parametrize("edge_dim", [None, EDGE_FEATURES])
def test_bipartite(name: str, sides: tuple[int, int], edge_dim: int | None) -> None:
    options = {"heads": 2, "edge_dim": edge_dim}
    if name == "GATv2Conv":
        # PyG reduces into the smaller side alone, and fails where edges name other nodes.
        options["fill_value"] = 0.5
    theirs, mine = twins(name, options, (FEATURES, 4))
    index = messy_edges(*sides)
    inputs = [
        (draw(sides[0], FEATURES), draw(sides[1], 4)),
        index,
        *edge_attr_for(options, index.shape[1]),
    ]
    want, want_gradients = results_and_gradients(theirs, inputs)
    got, got_gradients = results_and_gradients(mine, inputs)
    assert_same(got, want)
    assert_same(got_gradients, want_gradients)


def test_bipartite_against_the_flow() -> None:
    theirs, mine = twins("TransformerConv", {"flow": "target_to_source"}, (FEATURES, 4))
    index = messy_edges(8, 19)  # row 0 names destinations now
    inputs = [(draw(19, FEATURES), draw(8, 4)), index]
    want, got = (results_and_gradients(layer, inputs) for layer in (theirs, mine))
    assert_same(got[0], want[0])
    assert_same(got[1], want[1])


@pytest.mark.parametrize("add_self_loops", [True, False])
@pytest.mark.parametrize("networks", [False, True])
@pytest.mark.parametrize(
    ("sides", "flow"),
    [
        ((NODES, NODES), "source_to_target"),
        ((19, 8), "source_to_target"),
        ((8, 19), "source_to_target"),
        ((NODES, NODES), "target_to_source"),
    ],
)
def test_point_transformer(
    sides: tuple[int, int], add_self_loops: bool, networks: bool, flow: str
) -> None:
    layers = []
    for module in (pyg, ours):
        torch.manual_seed(1)
        options: Options = {"add_self_loops": add_self_loops, "flow": flow}
        if networks:
            options["pos_nn"] = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 6))
            options["attn_nn"] = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6))
        layers.append(module.PointTransformerConv((FEATURES, 4), 6, **options))
    theirs, mine = layers
    assert list(mine.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert torch.equal(mine.state_dict()[key], value), key
    x = (draw(sides[0], FEATURES), draw(sides[1], 4))
    pos = (draw(sides[0], 3), draw(sides[1], 3, seed=1))
    inputs = [x, pos, messy_edges(*sides)]
    want, got = (results_and_gradients(layer, inputs) for layer in (theirs, mine))
    assert_same(got[0], want[0])
    assert_same(got[1], want[1])


def test_point_transformer_of_one_kind_of_points() -> None:
    theirs, mine = twins("PointTransformerConv", {})
    inputs = [draw(NODES, FEATURES), draw(NODES, 3), messy_edges()]
    want, got = (results_and_gradients(layer, inputs) for layer in (theirs, mine))
    assert_same(got[0], want[0])
    assert_same(got[1], want[1])


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("TransformerConv", {"heads": 2}),
        ("TransformerConv", {"heads": 2, "edge_dim": EDGE_FEATURES}),
        ("GATv2Conv", {"heads": 2, "edge_dim": EDGE_FEATURES}),
    ],
    ids=case_id,
)
def test_without_the_compiled_kernels(backend: Any, name: str, options: Options) -> None:
    theirs, mine = twins(name, options)
    index = messy_edges()
    inputs = [draw(NODES, FEATURES), index, *edge_attr_for(options, index.shape[1])]
    want = results_and_gradients(theirs, inputs)
    with use_backend(backend):
        got = results_and_gradients(mine, inputs)
    assert_same(got[0], want[0])
    assert_same(got[1], want[1])


def assert_as_near(got: Tensor, want: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    got, want, exact = (t.detach().double() for t in (got, want, exact))
    step = torch.finfo(dtype).eps * float(exact.abs().max())
    assert float((got - exact).abs().max()) <= float((want - exact).abs().max()) + step


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["TransformerConv", "GATv2Conv"])
@pytest.mark.parametrize("edge_dim", [None, EDGE_FEATURES])
def test_half_precision(name: str, dtype: torch.dtype, edge_dim: int | None) -> None:
    """The type of PyG's result, as near to float64 as PyG is, with room for one rounding."""
    options = {"heads": 2, "edge_dim": edge_dim}
    theirs, mine = twins(name, options, dtype=dtype)
    index = messy_edges()
    x, attr = draw(NODES, FEATURES).to(dtype), edge_attr_for(options, index.shape[1], dtype)
    want, got = (layer(x, index, *attr) for layer in (theirs, mine))
    assert got.dtype == want.dtype == dtype
    exact = mine.double()(x.double(), index, *(a.double() for a in attr))
    assert_as_near(got, want, exact, dtype)


@pytest.mark.parametrize("name", ["TransformerConv", "GATv2Conv"])
def test_autocast(name: str) -> None:
    theirs, mine = twins(name, {"heads": 2})
    x, index = draw(NODES, FEATURES), messy_edges()
    with torch.autocast("cpu", torch.bfloat16):
        want, got = theirs(x, index), mine(x, index)
    assert_as_near(got, want, theirs(x, index), torch.bfloat16)
