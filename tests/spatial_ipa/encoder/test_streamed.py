"""Encoders of slides that are read from their files as needed: those of slides in memory."""

from __future__ import annotations

import warnings
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from spatial_ipa.data.run import read_run
from spatial_ipa.data.simulation.files import TissuePaths, TissueSpec, write_tissue
from spatial_ipa.encoder.datamodule import EncoderDataModule
from spatial_ipa.encoder.frozen import FrozenEncoder, load_encoder
from spatial_ipa.encoder.module import EncoderModule
from spatial_ipa.encoder.settings import DrawSettings, GeneSettings, StartSettings
from spatial_ipa.encoder.training_slides import embed_training


@pytest.fixture(scope="module")
def tissue(tmp_path_factory: pytest.TempPathFactory) -> TissuePaths:
    spec = TissueSpec(num_slides=3, spots_per_slide=90, num_genes=130, num_cells=60)
    return write_tissue(spec, tmp_path_factory.mktemp("tissue"))


def fit(
    tissue: TissuePaths,
    folder: Path,
    start: StartSettings,
    memory_mb: float | None,
    epochs: int = 1,
    resume: Path | None = None,
) -> FrozenEncoder:
    folder.mkdir(exist_ok=True)
    data = EncoderDataModule(
        [str(p) for p in tissue.slides[:2]],
        [str(tissue.slides[2])],
        [str(tissue.scrna)],
        genes=GeneSettings(num_genes=110),
        draws=DrawSettings("transductive", steps_per_epoch=2, spots=40, num_workers=1),
        memory_mb=memory_mb,
    )
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=[ModelCheckpoint(folder, "{epoch}", save_top_k=-1)],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = EncoderModule(str(folder / "encoder.pt"), start)
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    assert {s.is_streamed for s in data.fit_slides} == {memory_mb == 0}
    return load_encoder(folder / "encoder.pt")


def test_a_trained_encoder_and_its_resumption(tissue: TissuePaths, tmp_path: Path) -> None:
    start = StartSettings("spatial")
    held = fit(tissue, tmp_path / "held", start, None, epochs=2)
    fit(tissue, tmp_path / "half", start, 0, epochs=1)
    streamed = fit(
        tissue, tmp_path / "rest", start, 0, epochs=2, resume=tmp_path / "half" / "epoch=0.ckpt"
    )
    assert held.panel == streamed.panel
    assert held.split == streamed.split
    assert held.weights_hash == streamed.weights_hash


@pytest.mark.parametrize("max_landmarks", [4000, 50])
def test_eigenmaps_and_what_is_embedded(
    tissue: TissuePaths, max_landmarks: int, tmp_path: Path
) -> None:
    start = StartSettings(max_landmarks=max_landmarks)
    held, streamed = (fit(tissue, tmp_path / str(mb), start, mb) for mb in (None, 0))
    assert held.weights_hash == streamed.weights_hash
    embedded = []
    for encoder, memory_mb in ((held, None), (streamed, 0)):
        read = read_run(tissue.slides[:2], tissue.slides[2:], memory_mb=memory_mb)
        found = embed_training(encoder, read.train)
        new = read.validation[0]
        embedded.append(
            [*(s.h for s in found), *(s.h_frame for s in found), encoder.embed(new, "st"),
             encoder.has_counts(new)]
        )  # fmt: skip
    for a, b in zip(*embedded, strict=True):
        np.testing.assert_array_equal(a, b)
