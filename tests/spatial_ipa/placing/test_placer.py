"""The model in use."""

from __future__ import annotations

import warnings
from dataclasses import replace

import anndata as ad
import numpy as np
import pytest
import torch
from small_encoders import make_encoder, make_slide

from common.errors import UserError
from common.sparse import edge_softmax
from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.slide import EmbeddedSlide, Slide
from spatial_ipa.geometry.gauge import gauge_fix_array
from spatial_ipa.model.network import NetworkSettings
from spatial_ipa.placing.command import CellDataModule
from spatial_ipa.placing.context import PlacementContext
from spatial_ipa.placing.options import InferenceMode, PlacementOptions
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
    module = SpatialIPAModule(NetworkSettings(D, form="states"))
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


@pytest.mark.parametrize("graph", ["whole", "stitched"])
def test_a_gate_per_head_places_and_its_graph_is_the_mean_over_heads(graph: InferenceMode) -> None:
    torch.manual_seed(0)
    settings = NetworkSettings(D, heads=3, form="states", gate_heads="own", block="frames")
    module = SpatialIPAModule(settings)
    placer = Placer(module.model, module.gate, PlacementContext(None, 20, 60, 0.1))
    h = torch.from_numpy(learnable_slide("a", 90).h)
    weight, edges = placer.gate_graph(h)
    assert module.gate is not None
    with torch.no_grad():
        heads = [edge_softmax(logit, edges) for logit in module.gate(h, edges).unbind(1)]
    torch.testing.assert_close(weight, torch.stack(heads).mean(0))
    assert not torch.equal(heads[0], heads[1])
    placed = placer.layout(h, graph, 2)
    assert placed.xy.shape == (90, 2)
    assert bool(torch.isfinite(placed.xy).all())


def test_what_is_placed_is_not_split() -> None:
    module = SpatialIPAModule(NetworkSettings(D, form="states"))
    placer = Placer(module.model, module.gate, PlacementContext(None, 20, 100, 0.0))
    with pytest.raises(ValueError, match="section_key splits slides that are trained on"):
        placer.place(ad.AnnData(np.ones((3, 2))), keys=SlideKeys(section_key="batch"))
    with pytest.raises(ValueError, match="section_key splits slides that are trained on"):
        CellDataModule("a.h5ad", "b.h5ad", keys=SlideKeys(section_key="batch"))


@pytest.mark.parametrize("keep", [False, True])
def test_spots_beside_the_tissue_are_not_placed_and_the_result_says_so(keep: bool) -> None:
    cells, encoder = make_slide(1, 40), make_encoder()
    data = ad.AnnData(cells.counts, var={"var_names": cells.genes})
    data.obs["in_tissue"] = np.arange(40) < 30
    torch.manual_seed(0)
    module = SpatialIPAModule(NetworkSettings(D, form="states"))
    placer = Placer(module.model, module.gate, PlacementContext(encoder, 10, 40, 0.0))
    options = PlacementOptions(num_draws=2)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        placed = placer.place(data, "st", options, keys=SlideKeys(keep_off_tissue=keep))
    told = "left out 10 of 40 spots beside the tissue"
    empty = placed.obs["spatial_ipa_empty"].to_numpy()
    np.testing.assert_array_equal(empty, np.zeros(40) if keep else np.arange(40) >= 30)
    assert any(told in str(warning.message) for warning in said) is not keep
    assert (told in placed.uns["spatial_ipa"]["reading"]) is not keep


def traced(size: int = 40) -> Placer:
    """A model of slides of ``make_slide`` trained on minisets of ``size``."""
    torch.manual_seed(0)
    module = SpatialIPAModule(NetworkSettings(D, form="states"))
    return Placer(module.model, module.gate, PlacementContext(make_encoder(), 10, size, 0.0))


def with_positions(n: int) -> Slide:
    xy = np.random.default_rng(0).random((n, 2)).astype(np.float32)
    return replace(make_slide(1, n), xy=xy)


def test_a_trace_is_of_all_spots_up_to_the_trained_size() -> None:
    slide = with_positions(40)
    trace = traced().trace(slide)
    assert trace.name == slide.name
    assert trace.rows.tolist() == list(range(40))
    assert slide.xy is not None
    np.testing.assert_allclose(trace.xy, gauge_fix_array(slide.xy), atol=1e-5)
    assert trace.edges.num_edges == 40 * 10
    assert trace.trajectory.shape == (6, 40, 2)


def test_a_trace_of_a_large_slide_is_of_a_sample_of_the_trained_size() -> None:
    slide, placer = with_positions(60), traced()
    traces = [placer.trace(slide, seed=seed) for seed in (0, 0, 1)]
    assert all(len(trace.rows) == 40 for trace in traces)
    assert traces[0].rows.tolist() == traces[1].rows.tolist() != traces[2].rows.tolist()
    np.testing.assert_array_equal(traces[0].weights, traces[1].weights)
    assert slide.xy is not None
    own = gauge_fix_array(slide.xy[traces[0].rows])
    np.testing.assert_allclose(traces[0].xy, own, atol=1e-5)


def test_a_trace_needs_one_slide_with_positions() -> None:
    with pytest.raises(UserError, match="has no coordinates to show attention on"):
        traced().trace(make_slide(1, 40))
    data = ad.AnnData(make_slide(1, 120).counts, var={"var_names": make_slide(1).genes})
    data.obsm["spatial"] = with_positions(120).xy
    data.obs["part"] = ["a", "b"] * 60
    with pytest.raises(UserError, match="takes one slide, got 2"):
        traced().trace(data, keys=SlideKeys(section_key="part"))
