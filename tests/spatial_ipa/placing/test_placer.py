"""The model in use."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spatial_ipa.data.slide import EmbeddedSlide
from spatial_ipa.model.network import NetworkSettings
from spatial_ipa.placing.context import PlacementContext
from spatial_ipa.placing.placer import Placer
from spatial_ipa.training.module import SpatialIPAModule

D = 8


def learnable_slide(name: str, n: int = 150, seed: int = 0) -> EmbeddedSlide:
    """Embeddings that are a smooth map of the coordinates plus two columns of noise."""
    rng = np.random.default_rng(seed)
    xy = rng.random((n, 2))
    waves = [f(np.pi * xy) for f in (np.sin, np.cos)]
    h = np.concatenate([2 * xy - 1, *waves, 0.3 * rng.standard_normal((n, 2))], 1)
    return EmbeddedSlide(name, h.astype(np.float32), xy.astype(np.float32))


def test_an_approximate_gate_graph_holds_nearly_the_exact_one() -> None:
    pytest.importorskip("faiss")
    torch.manual_seed(0)
    module = SpatialIPAModule(NetworkSettings(D))
    placer = Placer(module.model, module.gate, PlacementContext(None, 20, 100, 0.0))
    h = torch.from_numpy(learnable_slide("many", 3000).h)
    exact_weight, exact = placer.gate_graph(h)
    weight, edges = placer.gate_graph(h, approximate_above=2999)
    same_weight, same = placer.gate_graph(h, approximate_above=3000)
    assert torch.equal(same.edge_index, exact.edge_index)
    assert torch.equal(same_weight, exact_weight)
    pairs = [set(map(tuple, e.edge_index.T.tolist())) for e in (edges, exact)]
    assert len(pairs[0]) == len(pairs[1]) == 20 * 3000
    assert len(pairs[0] & pairs[1]) >= 0.95 * len(pairs[1])
    row_sums = torch.zeros(3000).index_add(0, edges.dst, weight)
    torch.testing.assert_close(row_sums, torch.ones(3000))
