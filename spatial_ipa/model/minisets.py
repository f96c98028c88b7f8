"""Minisets: random subsets of slides, drawn on the fly and batched as one disjoint union.

A draw is a pure function of (seed, index).  The sampler hands out indices that differ between
epochs and ranks (:mod:`common.training.sampler`), so no worker or rank state enters and a resumed
run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.errors import UserError
from common.graph.edges import EdgeList
from common.graph.knn import knn_edges
from common.rng import generator_for
from spatial_ipa.data.slide import EmbeddedSlide
from spatial_ipa.model.targets import (
    GateWalk,
    Target,
    build_target,
    gate_target,
    union_targets,
)


@dataclass(frozen=True)
class Miniset:
    """One graph or a disjoint union of B graphs, ready for the model.

    Attributes:
        h: (N, d) embeddings.
        candidates: kNN graph in h.
        wanted: (E,) T_ref, or a power of it, on the candidate edges: the gate's target.
        target: everything the layout is scored against.
        start_noise: (N, 2) standard normal noise for the model's start; None outside training.
        start: (N, 2) positions by regression that did not see these cells, in RMS radii of the
            tissue; None where the model is to find its own.
    """

    h: Tensor
    candidates: EdgeList
    wanted: Tensor
    target: Target
    start_noise: Tensor | None = None
    start: Tensor | None = None

    @property
    def num_graphs(self) -> int:
        return self.target.num_graphs

    def to(self, device: torch.device | str) -> Miniset:
        return Miniset(
            self.h.to(device),
            self.candidates.to(device),
            self.wanted.to(device),
            self.target.to(device),
            None if self.start_noise is None else self.start_noise.to(device),
            None if self.start is None else self.start.to(device),
        )


@dataclass(frozen=True)
class Augmentation:
    """What training does to a miniset.

    It happens here, from the generator of the draw, and not in the training step: so a draw is the
    same on whichever rank and in whichever batch it falls.

    Attributes:
        noise_h: standard deviation of Gaussian noise on the embeddings.
        dropout_h: share of embedding entries set to 0, the rest scaled up.
        drop_edges: share of candidate edges dropped.

    Raises:
        ValueError: on a negative noise or a share outside [0, 1).
    """

    noise_h: float = 0.3
    dropout_h: float = 0.1
    drop_edges: float = 0.2

    def __post_init__(self) -> None:
        if self.noise_h < 0:
            raise UserError(f"noise_h must not be negative, got {self.noise_h}")
        for name in ("dropout_h", "drop_edges"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must lie in [0, 1), got {getattr(self, name)}")

    def __call__(self, item: Miniset, generator: torch.Generator) -> Miniset:
        """Disturb one miniset.  The candidate graph stays that of the clean embeddings."""
        noise = torch.randn(item.h.shape, generator=generator)
        keep = torch.rand(item.h.shape, generator=generator) >= self.dropout_h
        kept = torch.rand(item.candidates.num_edges, generator=generator) >= self.drop_edges
        return Miniset(
            h=(item.h + self.noise_h * noise) * keep / (1 - self.dropout_h),
            candidates=item.candidates.select(kept),
            wanted=item.wanted[kept],
            target=item.target,
            start_noise=torch.randn(item.h.shape[0], 2, generator=generator),
            start=item.start,
        )


def collate(items: Sequence[Miniset]) -> Miniset:
    """The disjoint union of minisets."""
    noise = [m.start_noise for m in items if m.start_noise is not None]
    start = [m.start for m in items if m.start is not None]
    return Miniset(
        h=torch.cat([m.h for m in items]),
        candidates=EdgeList.disjoint_union([m.candidates for m in items]),
        wanted=torch.cat([m.wanted for m in items]),
        target=union_targets([m.target for m in items]),
        start_noise=torch.cat(noise) if noise else None,
        start=torch.cat(start) if start else None,
    )


def check_sizes(size_min: int, size_max: int) -> None:
    """Refuse miniset sizes that are too small or out of order.

    Raises:
        ValueError: if so.
    """
    if not 8 <= size_min <= size_max:
        raise UserError(
            f"sizes must satisfy 8 <= size_min <= size_max, got {size_min} and {size_max}"
        )


def draw_members(n: int, size_min: int, size_max: int, generator: torch.Generator) -> Tensor:
    """(m,) ascending: a random subset of n nodes, m uniform in [size_min, size_max], at most n."""
    size = int(torch.randint(size_min, size_max + 1, (1,), generator=generator))
    return torch.randperm(n, generator=generator)[: min(size, n)].sort().values


def build_miniset(
    h: Tensor,
    xy: Tensor,
    num_candidates: int,
    generator: torch.Generator,
    num_rows: int | None = None,
    gate_walk: GateWalk = "one_step",
) -> Miniset:
    """Build candidate graph and target of one set of nodes.

    Args:
        h: (n, d) embeddings.
        xy: (n, 2) coordinates.
        num_candidates: k of the kNN graph in h; at most n - 1 are there.
        generator: for the random parts of the target.
        num_rows: see :func:`~spatial_ipa.model.targets.build_target`.
        gate_walk: see :func:`~spatial_ipa.model.targets.gate_target`.
    """
    target = build_target(xy, generator, num_rows)
    candidates = knn_edges(h, num_candidates)
    return Miniset(h, candidates, gate_target(target, candidates, gate_walk), target)


class MinisetDataset(Dataset[Miniset]):
    """Item ``index`` is a random subset of a random slide, both determined by (seed, index).

    Slides are taken in turn, so that each gets the same number of minisets whatever its size, and
    sizes are uniform in ``[size_min, size_max]`` (a slide smaller than a drawn size is taken
    whole).

    Args:
        slides: at least one.
        length: number of draws; ``index`` may exceed it, as samplers number draws over epochs.
        size_min: smallest miniset.
        size_max: largest miniset.
        num_candidates: k of the candidate graph.
        seed: of all draws.
        num_rows: walk rows compared per miniset; all when None.
        augmentation: applied to every draw; none when None.
        gate_walk: what the gate is taught.

    Raises:
        ValueError: on an empty list, a non-finite embedding, or sizes out of order.
    """

    def __init__(
        self,
        slides: Sequence[EmbeddedSlide],
        length: int,
        size_min: int = 96,
        size_max: int = 384,
        num_candidates: int = 100,
        seed: int = 0,
        num_rows: int | None = None,
        augmentation: Augmentation | None = None,
        gate_walk: GateWalk = "one_step",
    ) -> None:
        if not slides:
            raise UserError("minisets need at least one slide, got none")
        check_sizes(size_min, size_max)
        for slide in slides:
            slide.check_finite()
        self.slides, self.length = list(slides), length
        self.size_min, self.size_max = size_min, size_max
        self.num_candidates, self.seed, self.num_rows = num_candidates, seed, num_rows
        self.augmentation, self.gate_walk = augmentation, gate_walk

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Miniset:
        slide = self.slides[index % len(self.slides)]
        generator = generator_for(self.seed, index)
        members = draw_members(len(slide.h), self.size_min, self.size_max, generator)
        chosen = members.numpy()
        item = build_miniset(
            torch.from_numpy(np.ascontiguousarray(slide.h[chosen])),
            torch.from_numpy(np.ascontiguousarray(slide.xy[chosen])),
            self.num_candidates,
            generator,
            self.num_rows,
            self.gate_walk,
        )
        if slide.start is not None:
            item = replace(item, start=torch.from_numpy(slide.start[chosen]))
        return item if self.augmentation is None else self.augmentation(item, generator)
