"""What the model reaches when its edges err less: bounds for the gate and for the candidates.

* ``oracle``: of the candidates of H those that are edges of the true graph: a gate that never errs.
* ``thinned``: the true graph, each of its edges kept with probability r, the share of them that is
  among the candidates: as many true edges, lost at random instead of where expression misleads.

The network is trained on such edges and placed on them without a gate, and nothing is done to the
layout afterwards, as in the row ``true graph``.  Coordinates enter the edges, so this is no way to
place new cells.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.graph.edges import EdgeList
from common.rng import generator_for
from spatial_ipa.data.slide import EmbeddedSlide
from spatial_ipa.geometry.graphs import adaptive_k, spatial_graph
from spatial_ipa.layout.frame_regression import FrameRegression
from spatial_ipa.layout.stitched import place_stitched
from spatial_ipa.layout.whole import place_whole
from spatial_ipa.model.minisets import Miniset, MinisetDataset
from spatial_ipa.model.pair import Network
from spatial_ipa.model.targets import gate_target
from spatial_ipa.training.datamodule import MinisetDataModule

Bound = Literal["oracle", "thinned"]


def bounded_edges(
    candidates: EdgeList, true: EdgeList, bound: Bound, generator: torch.Generator
) -> EdgeList:
    """The edges of a bound, from the candidates and the true graph of the same nodes."""
    n = true.num_nodes
    keys, wanted = (e.dst.long() * n + e.src.long() for e in (candidates, true))
    held = torch.isin(keys, wanted)
    if bound == "oracle":
        return candidates.select(held)
    recall = float(held.sum()) / len(wanted)
    return true.select(torch.rand(len(wanted), generator=generator) < recall)


class BoundedMinisets(Dataset[Miniset]):
    """Minisets whose candidates are the edges of a bound."""

    def __init__(self, minisets: MinisetDataset, bound: Bound) -> None:
        self.minisets, self.bound = minisets, bound

    def __len__(self) -> int:
        return len(self.minisets)

    def __getitem__(self, index: int) -> Miniset:
        item = self.minisets[index]
        generator = generator_for(self.minisets.seed, 79, index)
        edges = bounded_edges(item.candidates, item.target.edges, self.bound, generator)
        return replace(item, candidates=edges, wanted=gate_target(item.target, edges))


class BoundedData(MinisetDataModule):
    """Training minisets on the edges of :attr:`bound`."""

    bound: Bound = "oracle"

    def train_dataset(self) -> BoundedMinisets:  # type: ignore[override]
        return BoundedMinisets(super().train_dataset(), self.bound)


def place_bounded(
    network: Network,
    slide: EmbeddedSlide,
    bound: Bound,
    num_candidates: int,
    size: int,
    num_draws: int,
    seed: int,
    frame: FrameRegression,
) -> np.ndarray:
    """(n, 2) layout of a slide on the edges of a bound: whole up to ``size`` cells, or stitched."""
    xy, h = (torch.from_numpy(np.array(x)) for x in (slide.xy, slide.h))
    start = torch.from_numpy(frame.averaged(slide.h, seed)).to(h)
    generator = generator_for(seed, 80)

    def place(
        h: Tensor, cells: Tensor, edges: EdgeList, graph: Tensor, num_graphs: int, noise: Tensor
    ) -> Tensor:
        parts = cells.split(torch.bincount(graph, minlength=num_graphs).tolist())
        true = EdgeList.disjoint_union([spatial_graph(xy[c], adaptive_k(len(c)))[0] for c in parts])
        kept = bounded_edges(edges, true, bound, generator)
        layout: Tensor = network(h, kept, None, graph, num_graphs, noise, start[cells]).x
        return layout

    network.eval()
    if len(xy) <= size:
        placement = place_whole(place, h, num_candidates, num_draws, seed, 0.0)
    else:
        placement = place_stitched(place, h, num_candidates, num_draws, seed, 0.0, size)
    return placement.xy.numpy()
