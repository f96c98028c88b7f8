"""Coordinates of many cells from a trained model: the whole graph at once, or stitched minisets.

Both return several layouts of the same cells ("draws"), superposed by rotation and reflection; the
mean is the prediction and the spread around it the uncertainty.  Each draw sees the embeddings with
the Gaussian noise of training: the model was never fitted to clean embeddings, and the mean over
noise is a smoother map than the map itself (randomised smoothing).

Whole: one kNN candidate graph over all cells, one layout per draw of the start noise.  Where cells
are many the graph is built on them in an order that keeps neighbours close in memory
(:mod:`common.graph.order`), which changes the time but, to rounding, not the layout.

Stitched: the model sees graphs of the size it was trained on.  One pass splits the cells at random
into minisets that all contain the same anchors; each miniset is placed, superposed on its anchors
and cut off them.  Every cell is placed once per pass, and passes differ in anchors and split.  The
work is linear in the number of cells and needs no graph over all of them.

Outline: where expression says less about one direction than about another, layouts come out too
narrow across the uncertain one.  Sections of a tissue have similar proportions, so the layout is
stretched along its principal axes half-way, in the logarithm, from its own aspect ratio to that of
the training slides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from common.align import align
from common.errors import UserError
from common.graph.edges import EdgeList
from common.graph.knn import knn_edges
from common.graph.order import inverse_order, locality_order
from common.rng import generator_for
from spatial_ipa.geometry.gauge import gauge_fix

# (h, edges, graph, num_graphs, start_noise) -> coordinates (N, 2)
PlaceGraph = Callable[[Tensor, EdgeList, Tensor, int, Tensor], Tensor]
PlacementMode = Literal["whole", "stitched"]
# Nodes placed in one call of the model when stitching; bounds the memory, not the result.
_NODES_PER_CALL = 16_384
# Cells from which memory order repays its sort: what attention reads no longer fits the
# second-level cache (benchmarks/kernels/cpu.py).
_ORDER_FROM = 20_000
_SHOW_AFTER = 2.0  # seconds before a progress bar appears


@dataclass(frozen=True)
class Placement:
    """Attributes:

    xy: (n, 2) gauge-fixed mean layout.
    draws: (T, n, 2) the superposed layouts it is the mean of.
    """

    xy: Tensor
    draws: Tensor

    @property
    def spread(self) -> Tensor:
        """(n,) RMS distance of a cell's draws from their mean, in RMS radii of the layout."""
        return (self.draws - self.draws.mean(0)).square().sum(2).mean(0).sqrt()


def consensus(draws: Tensor, rounds: int = 3) -> Placement:
    """Superpose layouts (T, n, 2) on their mean by rotation and reflection, and average.

    Generalised Procrustes analysis (Gower 1975) without scaling: draws are gauge-fixed already.
    """
    reference = draws[0]
    for _ in range(rounds):
        aligned = align(draws, reference.expand_as(draws), reflection=True).apply(draws)
        reference = gauge_fix(aligned.mean(0))
    return Placement(reference, aligned)


# Share of the way to the training slides' aspect ratio.  Chosen on her2st patient A
# (benchmarks/reports/spatial_table_2core_202611.md).
_OUTLINE_SHARE = 0.5
# A layout more line-like than this has no second axis to stretch.
_MIN_ASPECT = 0.02


def aspect_ratio(xy: Tensor) -> float:
    """RMS width of points (n, 2) across their long principal axis over that along it, in [0, 1]."""
    centred = (xy - xy.mean(0)).double()
    low, high = torch.linalg.eigvalsh(centred.mT @ centred).clamp_min(0).tolist()
    return (low / high) ** 0.5 if high > 0 else 1.0


def typical_aspect(coordinates: Iterable[np.ndarray]) -> float:
    """Geometric mean of the aspect ratios of slides, each (n, 2) in a unit of its own."""
    ratios = [aspect_ratio(torch.from_numpy(np.array(xy))) for xy in coordinates]
    return float(np.exp(np.log(ratios).mean()))


def towards_outline(
    placement: Placement, aspect: float, share: float = _OUTLINE_SHARE
) -> Placement:
    """Stretch a layout along its principal axes towards an aspect ratio.

    Its own ratio r becomes r^(1 - share) aspect^share; the draws undergo the same linear map.

    Args:
        placement: at least two cells.
        aspect: that of the training slides, in (0, 1]; see :func:`aspect_ratio`.
        share: 0 leaves the layout alone, 1 gives it ``aspect``.

    Raises:
        ValueError: if ``aspect`` is not in (0, 1].
    """
    if not 0.0 < aspect <= 1.0:
        raise UserError(f"aspect must lie in (0, 1], got {aspect}")
    own = aspect_ratio(placement.xy)
    if own < _MIN_ASPECT:
        return placement
    xy = placement.xy.double()
    axes = torch.linalg.eigh((xy - xy.mean(0)).mT @ (xy - xy.mean(0))).eigenvectors  # narrow first
    stretch = torch.tensor([(aspect / own) ** share, 1.0], dtype=torch.float64, device=xy.device)
    change = (axes * stretch) @ axes.mT
    moved = (xy - xy.mean(0)) @ change
    scale = moved.square().sum(1).mean().sqrt()
    draws = (placement.draws.double() @ change) / scale
    return Placement((moved / scale).to(placement.xy), draws.to(placement.draws))


@torch.no_grad()
def place_whole(
    place: PlaceGraph,
    h: Tensor,
    num_candidates: int,
    num_draws: int,
    seed: int,
    noise_h: float,
) -> Placement:
    """Place all cells as one graph, ``num_draws`` times.

    Args:
        place: the model.
        h: (n, d) embeddings.
        num_candidates: k of the candidate graph, that of the clean embeddings.
        num_draws: layouts.
        seed: of the noise.
        noise_h: standard deviation of the noise on the embeddings.
    """
    n = h.shape[0]
    order = locality_order(h) if n >= _ORDER_FROM else torch.arange(n, device=h.device)
    back = inverse_order(order)
    edges = knn_edges(h[order], num_candidates)
    graph = torch.zeros(n, dtype=torch.int64, device=h.device)
    layouts = []
    for draw in tqdm(range(num_draws), "placing", unit="draw", delay=_SHOW_AFTER, leave=False):
        generator = generator_for(seed, draw)
        start = torch.randn(n, 2, generator=generator).to(h)
        rows = _noisy(h, noise_h, generator)
        layouts.append(place(rows[order], edges, graph, 1, start[order])[back])
    return consensus(torch.stack(layouts))


@torch.no_grad()
def place_stitched(
    place: PlaceGraph,
    h: Tensor,
    num_candidates: int,
    num_draws: int,
    seed: int,
    noise_h: float,
    size: int = 384,
    num_anchors: int | None = None,
) -> Placement:
    """Place cells in minisets that share anchors, in ``num_draws`` passes.

    Args:
        place: the model.
        h: (n, d) embeddings.
        num_candidates: k of the candidate graph of a miniset.
        num_draws: passes over all cells.
        seed: of splits, anchors and noise.
        noise_h: standard deviation of the noise on the embeddings.
        size: nodes of a miniset, anchors among them.
        num_anchors: cells that every miniset of a pass contains; a third of ``size`` when None.

    Raises:
        ValueError: if ``num_anchors`` is below 2 or not below ``size``.
    """
    num_anchors = size // 3 if num_anchors is None else num_anchors
    if not 2 <= num_anchors < size:
        raise UserError(f"num_anchors must lie in [2, size = {size}), got {num_anchors}")
    n = h.shape[0]
    if n <= size:
        return place_whole(place, h, num_candidates, num_draws, seed, noise_h)
    passes = []
    parts_per_pass = -(-(n - num_anchors) // (size - num_anchors))
    bar = tqdm(
        total=num_draws * parts_per_pass, desc="placing", unit="miniset", delay=_SHOW_AFTER,
        leave=False,
    )  # fmt: skip
    for draw in range(num_draws):
        generator = generator_for(seed, draw)
        order = torch.randperm(n, generator=generator)
        anchors, rest = order[:num_anchors], order[num_anchors:]
        # Equal parts: a last miniset of a few cells would be unlike all the model has seen.
        parts = list(rest.tensor_split(parts_per_pass))
        per_call = max(1, _NODES_PER_CALL // size)
        xy = h.new_zeros(n, 2)
        reference: Tensor | None = None
        anchor_sum = h.new_zeros(num_anchors, 2)
        for at in range(0, len(parts), per_call):
            group = parts[at : at + per_call]
            members = [torch.cat([anchors, part]) for part in group]
            layout = _place_union(place, h, members, num_candidates, generator, noise_h)
            if reference is None:
                reference = layout[0][:num_anchors]
            stack = torch.stack([x[:num_anchors] for x in layout])  # (B, A, 2)
            fit = align(stack, reference.expand_as(stack), reflection=True)
            anchor_sum += fit.apply(stack).sum(0)
            # Parts differ in size by one cell at most, so they are moved as one padded stack.
            others = torch.nn.utils.rnn.pad_sequence(
                [x[num_anchors:] for x in layout], batch_first=True
            )
            for part, moved in zip(group, fit.apply(others), strict=True):
                xy[part] = moved[: len(part)]
            bar.update(len(group))
        xy[anchors] = anchor_sum / len(parts)
        passes.append(gauge_fix(xy))
    bar.close()
    return consensus(torch.stack(passes))


def _place_union(
    place: PlaceGraph,
    h: Tensor,
    members: list[Tensor],
    num_candidates: int,
    generator: torch.Generator,
    noise_h: float,
) -> list[Tensor]:
    """Layouts of several minisets of cells, placed as one disjoint union."""
    count = torch.tensor([len(m) for m in members], device=h.device)
    ptr = torch.cat([count.new_zeros(1), count.cumsum(0)])
    rows = h[torch.cat(members).to(h.device)]
    graph = torch.repeat_interleave(count)
    noise = torch.randn(rows.shape[0], 2, generator=generator).to(h)
    edges = knn_edges(rows, num_candidates, ptr)
    x = place(_noisy(rows, noise_h, generator), edges, graph, len(members), noise)
    return list(x.split(count.tolist()))


def _noisy(h: Tensor, noise_h: float, generator: torch.Generator) -> Tensor:
    return h + noise_h * torch.randn(h.shape, generator=generator).to(h)
