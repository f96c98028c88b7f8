"""What is done to a slide before it is trained on or predicted: thinned, cropped, turned.

Everything is exact and repeats itself: coordinates are compared as they stand in the file, random
draws come from the name of the slide and of the change.

* ``low``, ``high``: half of the slide, cut at the median of the coordinate (x or y) of larger
  variance; spots at the median belong to ``low``.
* ``patch``: the third of the spots (rounded down) nearest to the mean position of ``low``; of spots
  equally far those that come first.
* depth p < 1: every count c becomes Binomial(c, p) (Poisson counts of a p-th of the depth).
* mixed m > 0: every spot's N counts are drawn anew, multinomially, from (1 - m) its own profile +
  m the profile of all spots that are left: as ambient RNA of a dissociated sample.
* shuffled: the spots in random order.

The changes come in this order.  Spots left without counts are dropped, as the reader drops them.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.sparse as sp
import torch

from common.errors import UserError
from common.rng import generator_for, numpy_generator_for
from spatial_ipa.data.read import read_slide
from spatial_ipa.data.slide import Slide

Region = Literal["whole", "low", "high", "patch"]
_SEED = 20  # of all draws here


@dataclass(frozen=True)
class Part:
    """A slide of a fold: a file, and what is done to it.

    Attributes:
        path: of the file; relative ones are looked up in the folder of the data.
        region: what of it is kept.
        depth: share of the counts that is kept.
        mixed: share of every profile that is that of all spots.
        shuffled: whether the order of the spots is random.

    Raises:
        ValueError: on a share out of range.
    """

    path: str
    region: Region = "whole"
    depth: float = 1.0
    mixed: float = 0.0
    shuffled: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.depth <= 1:
            raise UserError(f"depth must lie in (0, 1], got {self.depth}")
        if not 0 <= self.mixed < 1:
            raise UserError(f"mixed must lie in [0, 1), got {self.mixed}")

    @property
    def name(self) -> str:
        """Of the slide in results: the file's stem and what was done to it."""
        changes = [
            "" if self.region == "whole" else self.region,
            "" if self.depth == 1 else f"depth {self.depth:g}",
            f"mixed {self.mixed:g}" if self.mixed else "",
            "shuffled" if self.shuffled else "",
        ]
        return " ".join([Path(self.path).stem, *filter(None, changes)])

    def read(self, folder: Path) -> Slide:
        """The slide, with what is done to it.

        Raises:
            FileNotFoundError: if the file is not there.
            ValueError: if it has no coordinates, or counts are asked for and it holds logarithms.
        """
        slide = read_slide(folder / self.path, require_spatial=True)
        if self == Part(self.path):
            return slide
        assert slide.xy is not None
        rng = numpy_generator_for(_SEED, zlib.crc32(self.name.encode()))
        rows = region_rows(slide.xy, self.region)
        counts = slide.counts[rows]
        if self.depth < 1 or self.mixed:
            if slide.is_logged:
                raise UserError(f"{slide.name} holds logarithms; counts are needed to thin or mix")
            counts = mixed_counts(thinned_counts(counts, self.depth, rng), self.mixed, rng)
            held = np.diff(counts.indptr) > 0
            rows, counts = rows[held], counts[held]
        if self.shuffled:
            order = rng.permutation(len(rows))
            rows, counts = rows[order], counts[order]
        return Slide.build(
            self.name,
            counts,
            slide.genes,
            slide.xy[rows],
            obs_names=[slide.obs_names[row] for row in rows],
            is_logged=slide.is_logged,
            patient=slide.patient,
        )


def turned(slide: Slide, seed: int, index: int) -> Slide:
    """The slide in another pose: turned by a random angle, mirrored half of the time."""
    assert slide.xy is not None
    angle, mirror = torch.rand(2, generator=generator_for(seed, 77, index)).tolist()
    c, s = np.cos(2 * np.pi * angle), np.sin(2 * np.pi * angle)
    turn = np.array([[c, -s], [s, c]]) @ np.diag([1.0, -1.0 if mirror < 0.5 else 1.0])
    return Slide.build(
        slide.name,
        slide.counts,
        slide.genes,
        (slide.xy.astype(np.float64) @ turn).astype(np.float32),
        obs_names=slide.obs_names,
        is_logged=slide.is_logged,
        patient=slide.patient,
    )


def region_rows(xy: np.ndarray, region: Region) -> np.ndarray:
    """(m,) ascending rows of a region, as the module defines it."""
    if region == "whole":
        return np.arange(len(xy))
    points = xy.astype(np.float64)
    wide = points[:, int(points.var(axis=0).argmax())]
    low = wide <= np.median(wide)
    if region == "low":
        return np.flatnonzero(low)
    if region == "high":
        return np.flatnonzero(~low)
    distance = ((points - points[low].mean(axis=0)) ** 2).sum(axis=1)
    # Nine digits, so that spots of a grid that are equally far stay so on every machine.
    nearest = np.argsort(np.round(distance / distance.max(), 9), kind="stable")
    return np.sort(nearest[: len(xy) // 3])


def thinned_counts(counts: sp.csr_matrix, depth: float, rng: np.random.Generator) -> sp.csr_matrix:
    """Binomial(c, depth) of each count; the same matrix at depth 1."""
    if depth == 1:
        return counts
    thinned = counts.copy()
    thinned.data = rng.binomial(counts.data.astype(np.int64), depth).astype(np.float32)
    thinned.eliminate_zeros()
    return thinned


def mixed_counts(counts: sp.csr_matrix, mixed: float, rng: np.random.Generator) -> sp.csr_matrix:
    """Counts of each row drawn anew from its own profile and that of all rows."""
    if mixed == 0:
        return counts
    depth = np.asarray(counts.sum(axis=1), dtype=np.int64).ravel()
    total = np.asarray(counts.sum(axis=0), dtype=np.float64).ravel()
    rows = []
    for row, num in enumerate(depth):
        own = counts[row].toarray().ravel().astype(np.float64)
        profile = mixed * total / total.sum() + (1 - mixed) * own / max(own.sum(), 1.0)
        drawn = rng.multinomial(num, profile / profile.sum())
        rows.append(sp.csr_matrix(drawn.astype(np.float32)))
    return sp.vstack(rows, format="csr")
