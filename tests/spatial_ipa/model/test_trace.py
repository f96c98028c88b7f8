"""Traces: of one graph cut from a union, of a whole pass, what a cell sees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from common.errors import UserError
from spatial_ipa.model.gate import EdgeGate
from spatial_ipa.model.minisets import Miniset, build_miniset, collate
from spatial_ipa.model.network import Form, NetworkSettings
from spatial_ipa.model.pair import Network, build_pair
from spatial_ipa.model.trace import Trace, first_graph, trace_network

FORMS: tuple[Form, ...] = ("points", "states")


def pair(form: Form) -> tuple[Network, EdgeGate | None]:
    torch.manual_seed(0)
    model, gate = build_pair(NetworkSettings(8, 12, 3, 4, recycles=2, form=form), "gated")
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.2 * torch.randn(parameter.shape)
    return model.eval(), gate


def miniset(n: int, seed: int) -> Miniset:
    generator = torch.Generator().manual_seed(seed)
    h, xy, noise = (torch.randn(n, d, generator=generator) for d in (8, 2, 2))
    item = build_miniset(h, xy, 12, generator)
    return replace(item, start=item.target.xy + 0.3 * noise)


def trace(form: Form = "points", n: int = 50) -> Trace:
    return trace_network("s", *pair(form), miniset(n, 0), np.arange(0, 2 * n, 2))


@pytest.mark.parametrize("form", FORMS)
def test_a_trace_is_what_the_network_returned(form: Form) -> None:
    model, gate = pair(form)
    batch = miniset(50, 0)
    found = trace(form)
    assert gate is not None
    with torch.no_grad():
        logits = gate(batch.h, batch.candidates)
        layout = model(batch.h, batch.candidates, logits, start=batch.start)
        seen = model.attention(layout, batch.candidates, logits)
    np.testing.assert_array_equal(found.trajectory, torch.stack(layout.trajectory))
    np.testing.assert_array_equal(found.weights, seen.weights)
    np.testing.assert_array_equal(found.xy, batch.target.xy)
    assert found.heads == 3
    assert found.rows.tolist() == list(range(0, 100, 2))
    assert {"head_recall30/2", "attention_recall30/1", "nearest_cv"} <= set(found.health)
    assert all(isinstance(value, float) for value in found.health.values())


@pytest.mark.parametrize("form", FORMS)
def test_the_first_graph_of_a_union_is_the_graph_alone(form: Form) -> None:
    model, gate = pair(form)
    batch = collate([miniset(50, 0), miniset(40, 1)])
    graphs = batch.target.graph, batch.num_graphs
    assert gate is not None
    with torch.no_grad():
        logits = gate(batch.h, batch.candidates)
        layout = model(batch.h, batch.candidates, logits, *graphs, start=batch.start)
        seen = model.attention(layout, batch.candidates, logits, *graphs)
    first, alone = first_graph("s", batch, layout, batch.candidates, seen), trace(form)
    assert first.health == {}
    assert first.edges.edge_index.tolist() == alone.edges.edge_index.tolist()
    assert first.is_true.tolist() == alone.is_true.tolist()
    for name in ("xy", "trajectory", "weights"):
        np.testing.assert_allclose(getattr(first, name), getattr(alone, name), atol=2e-5)


def test_what_a_cell_sees() -> None:
    found = trace()
    dense = np.full((50, 50, 3), np.nan)
    dense[found.edges.dst, found.edges.src] = found.weights
    true = np.zeros((50, 50, 1), bool)
    known = miniset(50, 0).target.edges
    true[known.dst, known.src] = True
    for cell in (0, 17, 49):
        np.testing.assert_array_equal(found.focus(cell), dense[cell].astype(np.float32))
        np.testing.assert_allclose(np.nansum(found.focus(cell), axis=0), 1, atol=1e-6)
        wanted = np.nansum(dense[cell] * true[cell], axis=0)
        np.testing.assert_allclose(found.true_share(cell), wanted, atol=1e-6)


@pytest.mark.parametrize("cell", [-1, 50])
def test_a_cell_that_is_not_there_is_refused(cell: int) -> None:
    with pytest.raises(UserError, match=f"numbered 0 to 49, got {cell}"):
        trace().focus(cell)
