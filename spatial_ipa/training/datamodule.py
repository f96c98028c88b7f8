"""Slides to streams of minisets, for training and validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from torch.utils.data import DataLoader

from common.files.lists import Texts, one_or_several
from common.training.loader import DrawLoader
from common.training.sampler import DrawSampler
from common.training.scaling import batch_of_process, rate_factor
from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.run import MEMORY_MB, check_memory, read_run
from spatial_ipa.data.simulation.files import SimulatedTissue
from spatial_ipa.data.slide import EmbeddedSlide, Slide
from spatial_ipa.data.split import check_split
from spatial_ipa.encoder.cache import embed
from spatial_ipa.encoder.frozen import FrozenEncoder, load_encoder
from spatial_ipa.encoder.kernel_trunk import KernelTrunk
from spatial_ipa.encoder.stage import EncoderInputs, ensure_encoder
from spatial_ipa.encoder.training_slides import embed_training
from spatial_ipa.layout.frame_regression import FrameRegression
from spatial_ipa.layout.outline import typical_aspect
from spatial_ipa.model.minisets import Miniset, MinisetDataset, collate
from spatial_ipa.placing.context import PlacementContext
from spatial_ipa.training.settings import EncoderFile, MinisetSettings

# Validation minisets are drawn from another seed than training ones.
_VALIDATION_SEED_OFFSET = 1_000_003


class MinisetDataModule(pl.LightningDataModule):
    """Minisets of slides whose embeddings are in memory.

    Args:
        train: slides to draw training minisets from.
        val: held-out slides; may be empty.
        settings: how minisets are drawn.
        encoder: what the embeddings came from, for the checkpoint.
    """

    def __init__(
        self,
        train: Sequence[EmbeddedSlide],
        val: Sequence[EmbeddedSlide],
        settings: MinisetSettings,
        encoder: FrozenEncoder | None = None,
    ) -> None:
        super().__init__()
        self.train, self.val = list(train), list(val)
        self.settings, self.encoder = settings, encoder
        self._start: FrameRegression | None = None

    @property
    def width(self) -> int:
        return int(self.train[0].h.shape[1])

    @property
    def context(self) -> PlacementContext:
        s = self.settings
        aspect = typical_aspect(slide.xy for slide in self.train)
        return PlacementContext(
            self.encoder, s.num_candidates, s.size_max, s.augmentation.noise_h, aspect
        )

    @property
    def _world(self) -> int:
        return 1 if self.trainer is None else self.trainer.world_size

    @property
    def rate_factor(self) -> float:
        """Factor of the learning rate for the number of processes."""
        return rate_factor(self.settings.scaling, self._world)

    def _batch_of_process(self) -> int:
        s = self.settings
        return batch_of_process(s.batch_size, s.scaling, self._world, "minisets.batch_size")

    def start_at(self, frame: FrameRegression) -> None:
        """Give held-out slides the positions by regression that a network may start at.

        They are computed when validation minisets are asked for: a checkpoint that is loaded into a
        module with a frame brings another.
        """
        self._start = frame

    def train_dataset(self) -> MinisetDataset:
        return self._dataset(self.train, self.settings.seed, train=True)

    def train_dataloader(self) -> DataLoader[Miniset]:
        return self._loader(self.train_dataset(), self.settings.per_epoch, advance=True)

    def val_dataloader(self) -> DataLoader[Miniset] | list[Any]:
        if not self.val:
            return []
        frame, self._start = self._start, None
        if frame is not None:
            self.val = [
                replace(s, start=frame.averaged(s.h, self.settings.seed).astype(np.float32))
                for s in self.val
            ]
        dataset = self._dataset(self.val, self.settings.seed + _VALIDATION_SEED_OFFSET, train=False)
        draws = self.settings.val_per_slide * len(self.val)
        return self._loader(dataset, draws, advance=False)

    def test_dataloader(self) -> DataLoader[Miniset] | list[Any]:
        """The validation minisets: there are no other held-out slides."""
        return self.val_dataloader()

    def _dataset(self, slides: list[EmbeddedSlide], seed: int, train: bool) -> MinisetDataset:
        s = self.settings
        return MinisetDataset(
            slides,
            s.per_epoch,
            s.size_min,
            s.size_max,
            s.num_candidates,
            seed,
            s.num_rows if train else None,
            s.augmentation if train else None,
            s.gate_walk,
        )

    def _loader(self, dataset: MinisetDataset, draws: int, advance: bool) -> DataLoader[Miniset]:
        trainer = self.trainer
        assert trainer is not None, "dataloaders are asked for by a Trainer"
        world = trainer.world_size
        # Equal counts on every rank, or ranks wait for each other for ever.
        sampler = DrawSampler(-(-draws // world) * world, world, trainer.global_rank, advance)
        batch_size, workers = self._batch_of_process(), self.settings.num_workers
        if advance:
            return DrawLoader(dataset, sampler, batch_size, collate, workers)
        return DataLoader(
            dataset, batch_size, sampler=sampler, collate_fn=collate, num_workers=workers
        )


class SlideDataModule(MinisetDataModule):
    """Minisets of slides in files, embedded by a frozen encoder.

    The encoder's own record of its training slides is checked against the slides given here: a
    held-out slide it has seen, or a training slide it has not, is refused.

    Args:
        train_slides: files, folders or glob patterns of the slides to train on, or one of them.
        val_slides: the same, of held-out slides; may be empty.
        encoder: the encoder, and how it is made if it is absent.
        minisets: how minisets are drawn.
        keys: where in a slide's file matrix, gene names and coordinates are, and what is read.
        scrna: dissociated samples that an absent encoder is aligned with (files, folders or
            patterns); may be empty.
        scrna_keys: where in their files matrix and gene names are; as ``keys`` where null.
        simulate: write this simulated tissue first unless its folder holds it; null for real slides
            only.
        memory_mb: counts of all slides are kept in memory up to so many MB (8 bytes an entry);
            beyond, each is read from its file when it is needed.  null: always kept.

    Example:
        >>> import spatial_ipa
        >>> data = spatial_ipa.SlideDataModule(example_files[:2], example_files[2:3])
        >>> data.settings.size_max
        384
    """

    def __init__(
        self,
        train_slides: Texts,
        val_slides: Texts,
        encoder: EncoderFile = EncoderFile(),
        minisets: MinisetSettings = MinisetSettings(),
        keys: SlideKeys = SlideKeys(),
        scrna: Texts | None = None,
        scrna_keys: SlideKeys = SlideKeys(),
        simulate: SimulatedTissue | None = None,
        memory_mb: float | None = MEMORY_MB,
    ) -> None:
        super().__init__([], [], minisets)
        check_memory(memory_mb)
        self.inputs = EncoderInputs(
            one_or_several(train_slides),
            one_or_several(val_slides),
            one_or_several(scrna or []),
            keys,
            scrna_keys,
            memory_mb,
        )
        self.encoder_file, self.simulate = encoder, simulate

    def prepare_data(self) -> None:
        if self.simulate is not None:
            self.simulate.ensure()
        self._batch_of_process()
        slides = self._read()  # what is wrong with files is found before anything is trained
        path = Path(self.encoder_file.path)
        ensure_encoder(path, self.encoder_file.config, self.inputs)
        encoder = load_encoder(path)
        # Those of training slides out of fold are not kept in the cache.
        kernel = isinstance(encoder.encoder, KernelTrunk)
        for slide in slides[1] if kernel else slides[0] + slides[1]:
            embed(encoder, slide, "st", Path(self.encoder_file.cache))

    def setup(self, stage: str) -> None:
        train, val = self._read()
        encoder = load_encoder(self.encoder_file.path)
        check_split(encoder.split, train, val)
        cache = Path(self.encoder_file.cache)
        self.encoder = encoder
        self.train = embed_training(encoder, train, cache)
        self.val = [
            EmbeddedSlide(s.name, embed(encoder, s, "st", cache), s.xy)
            for s in val
            if s.xy is not None
        ]

    def _read(self) -> tuple[list[Slide], list[Slide]]:
        files = self.inputs
        read = read_run(files.train, files.heldout, keys=files.keys, memory_mb=files.memory_mb)
        return read.train, read.validation
