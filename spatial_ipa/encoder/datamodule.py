"""What the encoder is trained on: slides under a split, and augmented views drawn from them.

Views.  Counts are thinned binomially (each count survives with a probability drawn per spot), then
normalised, log-transformed and centred on the view's own mean; then genes are set to 0 at random
with the rest scaled up, each spot is scaled by a random factor and Gaussian noise is added.  Gene
dropout, scaling and noise leave the expectation of the values unchanged; thinning does not, which
is its purpose: it imitates a shallower slide.  Logged slides are not thinned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import scipy.sparse as sp
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.errors import UserError
from common.rng import numpy_generator_for
from common.training.sampler import DrawSampler, epoch_to_draw
from spatial_ipa.data.log_expression import LogExpression
from spatial_ipa.data.read import (
    MIN_GENES,
    gene_panel,
    read_slide,
    read_slides,
    reindex,
    select_genes,
    slide_files,
)
from spatial_ipa.data.simulation.files import TissueSpec, ensure_tissue
from spatial_ipa.data.slide import Slide
from spatial_ipa.data.split import Split, SplitMode


@dataclass(frozen=True)
class ViewSettings:
    """Strength of the augmentations.

    Attributes:
        keep_min: a spot's counts survive with a probability uniform in [keep_min, 1].
        gene_dropout: share of genes set to 0, per spot.
        scale_jitter: standard deviation of the log of a spot's factor (whose mean is 1).
        noise: standard deviation of the noise, in units of log expression.

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
    target_sum: float,
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
    x = LogExpression.of_counts(counts, target_sum, logged).rows(slice(None))
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

    All is a function of (seed, index).  The first slide always has coordinates.
    """

    def __init__(
        self,
        slides: Sequence[Slide],
        panel: Sequence[str],
        target_sum: float,
        spots: int,
        views: ViewSettings,
        seed: int,
        scrna: Sequence[Slide] = (),
        without_xy: Sequence[Slide] = (),
    ) -> None:
        self.st = [*slides, *without_xy]
        self.num_with_xy = len(slides)
        self.domains = [*self.st, *scrna]
        self.counts = [reindex(s, panel)[0] for s in self.domains]
        self.target_sum, self.spots, self.views, self.seed = target_sum, spots, views, seed

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
        counts = self.counts[number][rows]
        a, b = (
            torch.from_numpy(
                augmented_view(counts, slide.is_logged, self.target_sum, self.views, rng)
            )
            for _ in range(2)
        )
        xy = None
        if number < self.num_with_xy and slide.xy is not None:
            xy = torch.from_numpy(slide.xy[rows])
            xy = xy - xy.mean(0)
            xy = xy / xy.square().sum(1).mean().sqrt()
        return DomainBatch((a, b), xy, number, number >= len(self.st))


class EncoderDataModule(pl.LightningDataModule):
    """Slides for the encoder, under a split that is fixed before anything is computed.

    Genes, normalisation and components come from training slides alone.  A held-out file is read
    for its identity and dropped; in the transductive mode its expression is kept, without
    coordinates, for the self-supervised and alignment terms.

    Args:
        train_slides: files, folders or glob patterns.
        heldout_slides: the same; declared, so that the encoder refuses to be judged on others it
            has seen.  May be empty.
        scrna: files, folders or glob patterns of dissociated samples to align with; may be empty.
        mode: "inductive" or "transductive".
        select_on: name of a training slide that is kept out of the components and gradients and
            decides which epoch's weights are kept; null keeps the last.
        min_detection: genes detected in a smaller share of training spots are left out.
        num_genes: keep only so many of the most variable genes; null keeps all.
        target_sum: library size of the normalisation.
        steps_per_epoch: training steps over all processes.
        spots: most spots per slide and step.
        views: the augmentations.
        seed: of all draws.
        num_workers: loader processes.
        spatial_key: key of the coordinates in ``obsm``.
        layer: layer of the counts of the slides; ``X`` when null, ``raw.X`` for ``AnnData.raw``.
        gene_key: column of ``var`` of the slides with the gene names; its index when null.
        scrna_layer: that of ``scrna``; as ``layer`` when null.
        scrna_gene_key: that of ``scrna``; as ``gene_key`` when null, ``var_names`` for the index.
        simulate: write this simulated tissue first unless ``simulate_dir`` holds it; another
            simulated tissue there is replaced; null for real slides only.
        simulate_dir: folder of the simulated slides.
    """

    def __init__(
        self,
        train_slides: list[str],
        heldout_slides: list[str] | None = None,
        scrna: list[str] | None = None,
        mode: SplitMode = "inductive",
        select_on: str | None = None,
        min_detection: float = 0.01,
        num_genes: int | None = None,
        target_sum: float = 1e4,
        steps_per_epoch: int = 10,
        spots: int = 384,
        views: ViewSettings = ViewSettings(),
        seed: int = 0,
        num_workers: int = 0,
        spatial_key: str = "spatial",
        layer: str | None = None,
        gene_key: str | None = None,
        scrna_layer: str | None = None,
        scrna_gene_key: str | None = None,
        simulate: TissueSpec | None = None,
        simulate_dir: str = "runs/tissue",
    ) -> None:
        super().__init__()
        self.train_files, self.heldout_files = train_slides, heldout_slides or []
        self.scrna_files, self.mode, self.select_on = scrna or [], mode, select_on
        self.min_detection, self.num_genes, self.target_sum = min_detection, num_genes, target_sum
        self.steps_per_epoch, self.spots, self.views, self.seed = (
            steps_per_epoch,
            spots,
            views,
            seed,
        )
        self.num_workers, self.spatial_key = num_workers, spatial_key
        self.layer, self.gene_key = layer, gene_key
        self.scrna_layer = layer if scrna_layer is None else scrna_layer
        self.scrna_gene_key = gene_key if scrna_gene_key is None else scrna_gene_key
        self.simulate, self.simulate_dir = simulate, Path(simulate_dir)

    def prepare_data(self) -> None:
        if self.simulate is not None:
            ensure_tissue(self.simulate, self.simulate_dir)

    def setup(self, stage: str) -> None:
        self.declare(
            self._slides(self.train_files),
            self._slides(self.heldout_files) if self.heldout_files else [],
            [
                read_slide(
                    f,
                    require_spatial=False,
                    layer=self.scrna_layer,
                    gene_key=self.scrna_gene_key,
                )
                for f in (slide_files(self.scrna_files) if self.scrna_files else [])
            ],
        )

    def _slides(self, files: list[str]) -> list[Slide]:
        return read_slides(
            files, spatial_key=self.spatial_key, layer=self.layer, gene_key=self.gene_key
        )

    def declare(
        self, train: Sequence[Slide], heldout: Sequence[Slide], scrna: Sequence[Slide] = ()
    ) -> None:
        """Fix the split; everything else follows from the training slides (and scRNA genes)."""
        self.split = Split.declare(train, heldout, scrna, self.mode)
        self.seen_heldout = (
            [without_coordinates(s) for s in heldout] if self.mode == "transductive" else []
        )
        del heldout
        names = [s.name for s in train]
        if self.select_on is not None and (self.select_on not in names or len(names) < 2):
            raise UserError(
                f"select_on must name one of at least two training slides ({', '.join(names)}), "
                f"got {self.select_on!r}; use null to keep the last epoch"
            )
        self.fit_slides = [s for s in train if s.name != self.select_on]
        self.selection = next((s for s in train if s.name == self.select_on), None)
        self.scrna = list(scrna)
        shared = gene_panel([*train, *scrna])
        counts = [reindex(s, shared)[0] for s in self.fit_slides]
        detected = sum(np.asarray((c > 0).sum(axis=0)).ravel() for c in counts)
        needed = self.min_detection * sum(c.shape[0] for c in counts)
        panel = tuple(g for g, d in zip(shared, np.asarray(detected), strict=True) if d > needed)
        rank_zero_info(
            f"{len(panel)} of them are detected in more than {self.min_detection:.2%} of spots"
        )
        if len(panel) < MIN_GENES:
            raise UserError(
                f"{len(panel)} of {len(shared)} shared genes are detected in more than "
                f"min_detection={self.min_detection} of spots, at least {MIN_GENES} are needed; "
                "lower min_detection, or give slides with more counts"
            )
        if self.num_genes is not None and self.num_genes < len(panel):
            panel = select_genes(self.fit_slides, panel, self.num_genes)
        self.panel = panel

    def expression(self) -> list[LogExpression]:
        """Expression of the slides that are trained on, on the panel."""
        return [LogExpression.of_slide(s, self.panel, self.target_sum) for s in self.fit_slides]

    def train_dataloader(self) -> DataLoader[list[DomainBatch]]:
        assert self.trainer is not None
        world = self.trainer.world_size
        sampler = DrawSampler(
            math.ceil(self.steps_per_epoch / world) * world, world, self.trainer.global_rank
        )
        sampler.set_epoch(epoch_to_draw(self.trainer, len(sampler)))
        dataset = ViewDataset(
            self.fit_slides,
            self.panel,
            self.target_sum,
            self.spots,
            self.views,
            self.seed,
            self.scrna,
            self.seen_heldout,
        )
        return DataLoader(dataset, batch_size=None, sampler=sampler, num_workers=self.num_workers)


def without_coordinates(slide: Slide) -> Slide:
    """The same expression with nothing left of its coordinates."""
    return Slide.build(
        slide.name,
        slide.counts,
        slide.genes,
        None,
        obs_names=slide.obs_names,
        is_logged=slide.is_logged,
        patient=slide.patient,
    )
