"""What the training slides say about new cells: how strange they are, and how far apart such lie.

For a new cell with embedding h and each training slide s, N_s is the set of the k = 20 nearest of
the slide's cells in H.  Nothing about the new cell but h is used.

    novelty    = mean_s (distance to the k-th nearest in s) / (median of the same among the cells
                 of s, each left out of its own neighbours);  1 for cells like those of training
    ambiguity  = sqrt(mean_s v_s),  v_s = (mean squared distance of two cells of N_s) / (mean
                 squared distance of two cells of s);  0: position is fixed, 1: any position
    multimodal = share of the slides on which N_s falls into two groups far apart

The last two are those of :mod:`spatial_ipa.confidence.identifiability`, for cells without
coordinates. Slides are compared one by one: they share no frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from common.errors import UserError
from common.rng import numpy_generator_for
from spatial_ipa.confidence.identifiability import NEIGHBOURS, is_split
from spatial_ipa.data.slide import EmbeddedSlide
from spatial_ipa.geometry.gauge import gauge_fix_array
from spatial_ipa.geometry.neighbours import nearest

MAX_SLIDES = 16
_BLOCK = 65_536  # new cells at once
MAX_CELLS = 512
"""Per slide; with the former it bounds what a checkpoint holds: 4 MB at 128 numbers a cell."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """Per new cell, (n,) float64 each: see the module."""

    novelty: np.ndarray
    ambiguity: np.ndarray
    multimodal: np.ndarray


@dataclass(frozen=True, eq=False)
class ReferenceCells:
    """A sample of the training cells.

    Attributes:
        names: of the S slides.
        h: per slide (m_s, d) float32 embeddings.
        xy: per slide (m_s, 2) float32 coordinates, mean 0 and RMS radius 1.
    """

    names: tuple[str, ...]
    h: tuple[np.ndarray, ...]
    xy: tuple[np.ndarray, ...]

    @staticmethod
    def sample(slides: Sequence[EmbeddedSlide], seed: int = 0) -> ReferenceCells:
        """At most 16 slides and 512 cells of each, drawn with ``seed`` where there are more.

        Raises:
            ValueError: if there is no slide, or one has fewer than 21 cells.
        """
        if not slides:
            raise UserError("slides is empty: reference cells need at least one training slide")
        for slide in slides:
            if len(slide.xy) <= NEIGHBOURS:
                raise UserError(
                    f"slide {slide.name} has {len(slide.xy)} cells; at least {NEIGHBOURS + 1} are "
                    "needed to judge new cells by it"
                )
        rng = numpy_generator_for(seed)
        count = min(len(slides), MAX_SLIDES)
        chosen = sorted(rng.choice(len(slides), count, replace=False).tolist())
        h, xy = [], []
        for slide in (slides[i] for i in chosen):
            n = len(slide.xy)
            rows = np.sort(rng.choice(n, min(n, MAX_CELLS), replace=False))
            h.append(np.array(slide.h[rows], dtype=np.float32))
            xy.append(gauge_fix_array(slide.xy[rows]).astype(np.float32))
        return ReferenceCells(tuple(slides[i].name for i in chosen), tuple(h), tuple(xy))

    def judge(self, h: np.ndarray) -> Evidence:
        """Evidence about new cells from their embeddings (n, d).

        Raises:
            ValueError: if the width differs from that of the reference cells.
        """
        if h.ndim != 2 or h.shape[1] != self.h[0].shape[1]:
            raise UserError(f"h must have shape (n, {self.h[0].shape[1]}), got {h.shape}")
        novelty, variance, multimodal = (np.zeros(len(h)) for _ in range(3))
        for own, xy in zip(self.h, self.xy, strict=True):
            usual = float(np.median(nearest(own, own, NEIGHBOURS, same=True)[0][:, -1]))
            # Both mean squared distances are 2 m / (m - 1) times the variance; that of s is 1.
            ratio = NEIGHBOURS / (NEIGHBOURS - 1) * (len(xy) - 1) / len(xy)
            for start in range(0, len(h), _BLOCK):
                rows = slice(start, start + _BLOCK)
                distance, index = nearest(h[rows], own, NEIGHBOURS)
                # Where training cells coincide in H nothing is usual: distances stay as they are.
                novelty[rows] += distance[:, -1] / (usual if usual > 0 else 1.0)
                places = xy[index].astype(np.float64)  # (rows, k, 2)
                variance[rows] += ratio * places.var(axis=1).sum(axis=1)
                multimodal[rows] += is_split(places)
        count = len(self.h)
        return Evidence(novelty / count, np.sqrt(variance / count), multimodal / count)

    def state(self) -> dict[str, Any]:
        """Tensors and plain types only, for ``torch.load(weights_only=True)``."""
        return {
            "names": list(self.names),
            "h": [torch.from_numpy(h) for h in self.h],
            "xy": [torch.from_numpy(xy) for xy in self.xy],
        }

    @staticmethod
    def from_state(state: dict[str, Any]) -> ReferenceCells:
        return ReferenceCells(
            tuple(state["names"]),
            tuple(h.cpu().numpy() for h in state["h"]),
            tuple(xy.cpu().numpy() for xy in state["xy"]),
        )
