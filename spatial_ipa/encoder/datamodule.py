"""What the encoder is trained on: slides under a split."""

from __future__ import annotations

import math
from collections.abc import Sequence

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from common.errors import UserError
from common.files.lists import Texts, one_or_several
from common.training.loader import DrawLoader
from common.training.sampler import DrawSampler
from spatial_ipa.data.expression import Expression
from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.panels import MIN_GENES, gene_panel, reindex, select_genes
from spatial_ipa.data.run import MEMORY_MB, check_memory, read_run
from spatial_ipa.data.simulation.files import SimulatedTissue
from spatial_ipa.data.slide import Slide
from spatial_ipa.data.split import Split
from spatial_ipa.encoder.settings import DrawSettings, GeneSettings
from spatial_ipa.encoder.views import DomainBatch, ViewDataset


class EncoderDataModule(pl.LightningDataModule):
    """Slides for the encoder, under a split that is fixed before anything is computed.

    Genes, normalisation and components come from training slides alone.  A held-out file is read
    for its identity and dropped; in the transductive mode its expression is kept, without
    coordinates, for the self-supervised and alignment terms.

    Args:
        train_slides: files, folders or glob patterns, or one of them.
        heldout_slides: the same; declared, so that the encoder refuses to be judged on others it
            has seen.  May be empty.
        scrna: files, folders or glob patterns of dissociated samples to align with; may be empty.
        keys: where in a slide's file matrix, gene names and coordinates are, and what is read.
        scrna_keys: where in the files of ``scrna`` they are; as ``keys`` where null.
        genes: which genes enter, and how.
        draws: what a training step sees.
        simulate: write this simulated tissue first unless its folder holds it; null for real slides
            only.
        memory_mb: counts of all slides are kept in memory up to so many MB (8 bytes an entry);
            beyond, each is read from its file when it is needed.  null: always kept.

    Example:
        >>> import spatial_ipa
        >>> data = spatial_ipa.EncoderDataModule(example_files[:2], example_files[3:])
        >>> data.setup("fit")
        >>> len(data.panel)
        120
    """

    def __init__(
        self,
        train_slides: Texts,
        heldout_slides: Texts | None = None,
        scrna: Texts | None = None,
        keys: SlideKeys = SlideKeys(),
        scrna_keys: SlideKeys = SlideKeys(),
        genes: GeneSettings = GeneSettings(),
        draws: DrawSettings = DrawSettings(),
        simulate: SimulatedTissue | None = None,
        memory_mb: float | None = MEMORY_MB,
    ) -> None:
        super().__init__()
        check_memory(memory_mb)
        self.train_files = one_or_several(train_slides)
        self.heldout_files = one_or_several(heldout_slides or [])
        self.scrna_files = one_or_several(scrna or [])
        self.keys, self.scrna_keys = keys, scrna_keys.or_else(keys)
        self.genes, self.draws, self.simulate = genes, draws, simulate
        self.memory_mb = memory_mb

    def prepare_data(self) -> None:
        if self.simulate is not None:
            self.simulate.ensure()

    def setup(self, stage: str) -> None:
        read = read_run(
            self.train_files,
            holdout=self.heldout_files,
            scrna=self.scrna_files,
            keys=self.keys,
            scrna_keys=self.scrna_keys,
            memory_mb=self.memory_mb,
        )
        self.declare(read.train, read.heldout_slides, read.samples)

    def declare(
        self, train: Sequence[Slide], heldout: Sequence[Slide], scrna: Sequence[Slide] = ()
    ) -> None:
        """Fix the split; everything else follows from the training slides (and scRNA genes)."""
        mode, select_on = self.draws.mode, self.draws.select_on
        self.split = Split.declare(train, heldout, scrna, mode)
        self.seen_heldout = (
            [s.without_coordinates() for s in heldout] if mode == "transductive" else []
        )
        del heldout
        names = [s.name for s in train]
        if select_on is not None and (select_on not in names or len(names) < 2):
            raise UserError(
                f"select_on must name one of at least two training slides ({', '.join(names)}), "
                f"got {select_on!r}; use null to keep the last epoch"
            )
        self.fit_slides = [s for s in train if s.name != select_on]
        self.selection = next((s for s in train if s.name == select_on), None)
        self.scrna = list(scrna)
        shared = gene_panel([*train, *scrna])
        detected = np.zeros(len(shared), dtype=np.int64)
        for slide in self.fit_slides:
            detected += np.asarray((reindex(slide, shared)[0] > 0).sum(axis=0)).ravel()
        least = self.genes.min_detection
        needed = least * sum(map(len, self.fit_slides))
        panel = tuple(g for g, d in zip(shared, detected, strict=True) if d > needed)
        rank_zero_info(f"{len(panel)} of them are detected in more than {least:.2%} of spots")
        if len(panel) < MIN_GENES:
            raise UserError(
                f"{len(panel)} of {len(shared)} shared genes are detected in more than "
                f"min_detection={least} of spots, at least {MIN_GENES} are needed; "
                "lower min_detection, or give slides with more counts"
            )
        if self.genes.num_genes is not None and self.genes.num_genes < len(panel):
            panel = select_genes(self.fit_slides, panel, self.genes.num_genes)
        self.panel = panel

    def expression(self) -> list[Expression]:
        """Expression of the slides that are trained on, on the panel."""
        return [
            Expression.of_slide(s, self.panel, self.genes.normalisation) for s in self.fit_slides
        ]

    def train_dataloader(self) -> DataLoader[list[DomainBatch]]:
        assert self.trainer is not None
        world = self.trainer.world_size
        sampler = DrawSampler(
            math.ceil(self.draws.steps_per_epoch / world) * world, world, self.trainer.global_rank
        )
        dataset = ViewDataset(
            self.fit_slides,
            self.panel,
            self.genes.normalisation,
            self.draws.spots,
            self.draws.views,
            self.draws.seed,
            self.scrna,
            self.seen_heldout,
        )
        return DrawLoader(dataset, sampler, None, num_workers=self.draws.num_workers)
