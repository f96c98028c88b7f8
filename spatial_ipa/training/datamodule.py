"""Slides to streams of minisets, for training and validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch.utils.data import DataLoader

from common.errors import MissingFile, UserError
from common.training.sampler import DrawSampler, epoch_to_draw
from common.training.stage import run_stage
from spatial_ipa.data.read import read_slides
from spatial_ipa.data.simulation.files import TissueSpec, ensure_tissue
from spatial_ipa.data.slide import EmbeddedSlide, Slide
from spatial_ipa.encoder.cache import embed
from spatial_ipa.encoder.frozen import FrozenEncoder, check_split, load_encoder
from spatial_ipa.layout.placement import typical_aspect
from spatial_ipa.model.minisets import Augmentation, Miniset, MinisetDataset, check_sizes, collate
from spatial_ipa.placing.context import PlacementContext

# Validation minisets are drawn from another seed than training ones.
_VALIDATION_SEED_OFFSET = 1_000_003


@dataclass(frozen=True)
class MinisetSettings:
    """How minisets are drawn.

    Attributes:
        per_epoch: training minisets per epoch over all processes, balanced over slides.
        val_per_slide: validation minisets of each held-out slide, the same in every epoch.
        batch_size: minisets per step and process.
        size_min: smallest miniset.
        size_max: largest miniset.
        num_candidates: k of the candidate graph in the embeddings.
        num_rows: rows per miniset whose random walks are compared in training; null for all.
            Validation always compares all.
        augmentation: noise and drops in training.
        num_workers: loader processes.
        seed: of all draws.
    """

    per_epoch: int = 1000
    val_per_slide: int = 50
    batch_size: int = 8
    size_min: int = 96
    size_max: int = 384
    num_candidates: int = 100
    num_rows: int | None = None
    augmentation: Augmentation = Augmentation()
    num_workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("per_epoch", "val_per_slide", "batch_size", "num_candidates"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_rows is not None and self.num_rows < 1:
            raise UserError(f"num_rows must be at least 1, got {self.num_rows}; null for all")
        check_sizes(self.size_min, self.size_max)


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

    def train_dataset(self) -> MinisetDataset:
        return self._dataset(self.train, self.settings.seed, train=True)

    def train_dataloader(self) -> DataLoader[Miniset]:
        return self._loader(self.train_dataset(), self.settings.per_epoch, advance=True)

    def val_dataloader(self) -> DataLoader[Miniset] | list[Any]:
        if not self.val:
            return []
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
        )

    def _loader(self, dataset: MinisetDataset, draws: int, advance: bool) -> DataLoader[Miniset]:
        trainer = self.trainer
        assert trainer is not None, "dataloaders are asked for by a Trainer"
        world = trainer.world_size
        # Equal counts on every rank, or ranks wait for each other for ever.
        sampler = DrawSampler(-(-draws // world) * world, world, trainer.global_rank, advance)
        # Lightning's own call comes too late for worker processes after a resume.
        batches = -(-len(sampler) // self.settings.batch_size)
        sampler.set_epoch(epoch_to_draw(trainer, batches))
        return DataLoader(
            dataset,
            batch_size=self.settings.batch_size,
            sampler=sampler,
            collate_fn=collate,
            num_workers=self.settings.num_workers,
        )


class SlideDataModule(MinisetDataModule):
    """Minisets of ``.h5ad`` slides, embedded by a frozen encoder.

    The encoder's own record of its training slides is checked against the slides given here: a
    held-out slide it has seen, or a training slide it has not, is refused.

    Args:
        train_slides: files, folders or glob patterns of the slides to train on.
        val_slides: the same, of held-out slides; may be empty.
        encoder: weights written by ``lightning fit --config configs/spatial_ipa/encoder.yaml``.
        minisets: how minisets are drawn.
        cache_dir: folder of the embedding cache.
        spatial_key: key of the coordinates in ``obsm``.
        layer: layer of the counts of the slides; ``X`` when null, ``raw.X`` for ``AnnData.raw``.
        gene_key: column of ``var`` of the slides with the gene names; its index when null.
        encoder_config: config that trains the encoder on these slides if ``encoder`` does not
            exist; null to refuse instead.
        scrna: dissociated samples that such an encoder is aligned with (files, folders or
            patterns); may be empty.
        scrna_layer: that of ``scrna``; as ``layer`` when null.
        scrna_gene_key: that of ``scrna``; as ``gene_key`` when null, ``var_names`` for the index.
        simulate: write this simulated tissue first unless ``simulate_dir`` holds it; another
            simulated tissue there is replaced; null for real slides only.
        simulate_dir: folder of the simulated slides.
    """

    def __init__(
        self,
        train_slides: list[str],
        val_slides: list[str],
        encoder: str,
        minisets: MinisetSettings = MinisetSettings(),
        cache_dir: str = "runs/cache",
        spatial_key: str = "spatial",
        layer: str | None = None,
        gene_key: str | None = None,
        encoder_config: str | None = None,
        scrna: list[str] | None = None,
        scrna_layer: str | None = None,
        scrna_gene_key: str | None = None,
        simulate: TissueSpec | None = None,
        simulate_dir: str = "runs/tissue",
    ) -> None:
        super().__init__([], [], minisets)
        self.train_slides, self.val_slides = train_slides, val_slides
        self.encoder_path, self.encoder_config = Path(encoder), encoder_config
        self.scrna, self.scrna_layer = scrna or [], scrna_layer
        self.scrna_gene_key = scrna_gene_key
        self.cache_dir, self.spatial_key = Path(cache_dir), spatial_key
        self.layer, self.gene_key = layer, gene_key
        self.simulate, self.simulate_dir = simulate, Path(simulate_dir)

    def prepare_data(self) -> None:
        if self.simulate is not None:
            ensure_tissue(self.simulate, self.simulate_dir)
        slides = self._read()  # what is wrong with files is found before anything is trained
        if not self.encoder_path.exists():
            if self.encoder_config is None:
                raise MissingFile(
                    f"encoder {self.encoder_path} does not exist; train it with `lightning fit "
                    "--config configs/spatial_ipa/encoder.yaml`, or set "
                    "data.init_args.encoder_config"
                )
            self._train_encoder()
        encoder = load_encoder(self.encoder_path)
        for slide in slides[0] + slides[1]:
            embed(encoder, slide, "st", self.cache_dir)

    def setup(self, stage: str) -> None:
        train, val = self._read()
        self.encoder = load_encoder(self.encoder_path)
        check_split(self.encoder.split, train, val)
        self.train, self.val = (
            [
                EmbeddedSlide(s.name, embed(self.encoder, s, "st", self.cache_dir), s.xy)
                for s in slides
                if s.xy is not None
            ]
            for slides in (train, val)
        )

    def _read(self) -> tuple[list[Slide], list[Slide]]:
        def slides(paths: list[str]) -> list[Slide]:
            return read_slides(
                paths, spatial_key=self.spatial_key, layer=self.layer, gene_key=self.gene_key
            )

        return slides(self.train_slides), slides(self.val_slides) if self.val_slides else []

    def _train_encoder(self) -> None:
        def flag(name: str, values: list[str]) -> str:
            return f"--data.init_args.{name}={yaml_list(values)}"

        run_stage(
            [
                "fit",
                "--config",
                str(self.encoder_config),
                flag("train_slides", self.train_slides),
                flag("heldout_slides", self.val_slides),
                flag("scrna", self.scrna),
                f"--data.init_args.spatial_key={self.spatial_key}",
                f"--data.init_args.layer={self.layer or 'null'}",
                f"--data.init_args.gene_key={self.gene_key or 'null'}",
                f"--data.init_args.scrna_layer={self.scrna_layer or 'null'}",
                f"--data.init_args.scrna_gene_key={self.scrna_gene_key or 'null'}",
                # The tissue is there already, if it is a simulated one that is trained on.
                "--data.init_args.simulate=null",
                f"--model.init_args.output={self.encoder_path}",
            ]
        )


def yaml_list(values: Sequence[str]) -> str:
    """A YAML flow list of strings, for a command line."""
    quoted = (value.replace("'", "''") for value in values)
    return "[" + ", ".join(f"'{value}'" for value in quoted) + "]"
