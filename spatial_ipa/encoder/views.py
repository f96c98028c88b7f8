"""Augmented views of spots, drawn from slides.

Counts are thinned binomially (each count survives with a probability drawn per spot), then
normalised, log-transformed and centred on the view's own mean; then genes are set to 0 at random
with the rest scaled up, each spot is scaled by a random factor and Gaussian noise is added.  Gene
dropout, scaling and noise leave the expectation of the values unchanged; thinning does not, which
is its purpose: it imitates a shallower slide.  Logged slides are not thinned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.errors import UserError
from common.rng import numpy_generator_for
from spatial_ipa.data.expression import Expression, Normalisation
from spatial_ipa.data.panels import gather_matrix, on_panel, panel_columns
from spatial_ipa.data.slide import Slide


@dataclass(frozen=True)
class ViewSettings:
    """Strength of the augmentations.

    Attributes:
        keep_min: a spot's counts survive with a probability uniform in [keep_min, 1].
        gene_dropout: share of genes set to 0, per spot.
        scale_jitter: standard deviation of the log of a spot's factor (whose mean is 1).
        noise: standard deviation of the noise, in units of normalised expression.

    Raises:
        ValueError: on values out of range.
    """

    keep_min: float = 0.5
    gene_dropout: float = 0.2
    scale_jitter: float = 0.1
    noise: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.keep_min <= 1 or not 0 <= self.gene_dropout < 1:
            raise UserError(
                f"keep_min must lie in (0, 1] and gene_dropout in [0, 1), got {self.keep_min} and "
                f"{self.gene_dropout}"
            )
        if min(self.scale_jitter, self.noise) < 0:
            raise UserError("scale_jitter and noise must not be negative")


def augmented_view(
    counts: sp.csr_matrix,
    logged: bool,
    normalisation: Normalisation,
    settings: ViewSettings,
    rng: np.random.Generator,
) -> np.ndarray:
    """(n, G) float32: one random view of spots of one slide; see the module.

    Counts that are not integers are rounded before they are thinned.
    """
    if not logged and settings.keep_min < 1:
        counts = counts.copy()
        keep = np.repeat(rng.uniform(settings.keep_min, 1, counts.shape[0]), np.diff(counts.indptr))
        counts.data = rng.binomial(np.rint(counts.data).astype(np.int64), keep).astype(np.float32)
    x = Expression.of_counts(counts, normalisation, logged).rows(slice(None))
    return disturb(x, settings, rng)


def disturb(x: np.ndarray, settings: ViewSettings, rng: np.random.Generator) -> np.ndarray:
    """Gene dropout, scale jitter and noise: random, with the expectation of x (n, G)."""
    if settings.gene_dropout > 0:
        kept = rng.random(x.shape, dtype=np.float32) >= settings.gene_dropout
        x = x * kept / np.float32(1 - settings.gene_dropout)
    if settings.scale_jitter > 0:
        s = settings.scale_jitter
        x = x * np.exp(s * rng.standard_normal((len(x), 1)) - s * s / 2).astype(np.float32)
    if settings.noise > 0:
        x = x + np.float32(settings.noise) * rng.standard_normal(x.shape, dtype=np.float32)
    return np.asarray(x, dtype=np.float32)


@dataclass(frozen=True)
class DomainBatch:
    """Spots of one slide or sample.

    Attributes:
        views: two (n, G) views.
        xy: (n, 2) coordinates over their RMS radius; None for scRNA-seq and held-out slides.
        domain: number of the slide or sample.
        is_scrna: goes through the adapter.
    """

    views: tuple[Tensor, Tensor]
    xy: Tensor | None
    domain: int
    is_scrna: bool

    def to(self, device: torch.device | str) -> DomainBatch:
        return DomainBatch(
            (self.views[0].to(device), self.views[1].to(device)),
            None if self.xy is None else self.xy.to(device),
            self.domain,
            self.is_scrna,
        )


class ViewDataset(Dataset[list[DomainBatch]]):
    """Item ``index``: spots of two slides, and of one scRNA sample where there are any.

    All is a function of (seed, index).  The first slide always has coordinates.  Of streamed slides
    only the rows drawn are read.
    """

    def __init__(
        self,
        slides: Sequence[Slide],
        panel: Sequence[str],
        normalisation: Normalisation,
        spots: int,
        views: ViewSettings,
        seed: int,
        scrna: Sequence[Slide] = (),
        without_xy: Sequence[Slide] = (),
    ) -> None:
        self.st = [*slides, *without_xy]
        self.num_with_xy = len(slides)
        self.domains = [*self.st, *scrna]
        # Slides of one kind have the same genes, and share the matrix.
        gathers: dict[tuple[str, ...], sp.csr_matrix] = {}
        for slide in self.domains:
            if slide.genes not in gathers:
                gathers[slide.genes] = gather_matrix(slide, panel_columns(slide, panel))
        self.gathers = [gathers[slide.genes] for slide in self.domains]
        self.normalisation, self.spots, self.views, self.seed = normalisation, spots, views, seed

    def __getitem__(self, index: int) -> list[DomainBatch]:
        rng = numpy_generator_for(self.seed, index)
        first = index % self.num_with_xy
        chosen = [first]
        if len(self.st) > 1:
            chosen.append((first + int(rng.integers(1, len(self.st)))) % len(self.st))
        if len(self.domains) > len(self.st):
            chosen.append(int(rng.integers(len(self.st), len(self.domains))))
        return [self._domain(number, rng) for number in chosen]

    def _domain(self, number: int, rng: np.random.Generator) -> DomainBatch:
        slide = self.domains[number]
        rows = np.sort(rng.permutation(len(slide))[: self.spots])
        counts = on_panel(slide.matrix.read(rows), self.gathers[number])
        a, b = (
            torch.from_numpy(
                augmented_view(counts, slide.is_logged, self.normalisation, self.views, rng)
            )
            for _ in range(2)
        )
        xy = None
        if number < self.num_with_xy and slide.xy is not None:
            xy = torch.from_numpy(slide.xy[rows])
            xy = xy - xy.mean(0)
            xy = xy / xy.square().sum(1).mean().sqrt()
        return DomainBatch((a, b), xy, number, number >= len(self.st))
