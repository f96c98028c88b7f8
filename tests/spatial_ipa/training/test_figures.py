"""The figure of a validation layout: in every epoch, on rank 0, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from spatial_ipa.data.slide import EmbeddedSlide
from spatial_ipa.model.network import NetworkSettings
from spatial_ipa.training.datamodule import MinisetDataModule
from spatial_ipa.training.module import SpatialIPAModule
from spatial_ipa.training.settings import MinisetSettings, Schedule

QUIET = pytest.mark.filterwarnings("ignore:You have overridden `transfer_batch_to_device`")


def slide(seed: int) -> EmbeddedSlide:
    rng = np.random.default_rng(seed)
    xy = rng.random((120, 2))
    h = np.concatenate([xy, np.sin(xy), rng.standard_normal((120, 4))], 1)
    return EmbeddedSlide(f"s{seed}", h.astype(np.float32), xy.astype(np.float32))


def fit(folder: Path, logged: bool) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    settings = MinisetSettings(
        per_epoch=2, val_per_slide=2, batch_size=2, size_min=60, size_max=80, num_candidates=15
    )
    module = SpatialIPAModule(NetworkSettings(8, 16, 2, 8, 2), schedule=Schedule(gate_steps=1))
    trainer = pl.Trainer(
        default_root_dir=folder, max_epochs=2, accelerator="cpu",
        logger=TensorBoardLogger(folder, "log", 0) if logged else False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(module, datamodule=MinisetDataModule([slide(0), slide(1)], [slide(2)], settings))
    return module.state_dict() | {"draw": torch.rand(1)}


@QUIET
def test_every_epoch_shows_a_layout_and_no_number_changes(tmp_path: Path) -> None:
    shown, plain = fit(tmp_path / "a", True), fit(tmp_path / "b", False)
    for name, value in plain.items():
        assert torch.equal(shown[name], value), name
    (file,) = (tmp_path / "a").rglob("events.out.tfevents.*")
    images = EventAccumulator(str(file), size_guidance={"images": 0}).Reload().Images("val/layout")
    assert len(images) == 2  # and none of the sanity check
    figures = sorted(path.name for path in (tmp_path / "a").rglob("figures/val/*.png"))
    assert figures == ["layout_0000.png", "layout_0001.png"]
    assert not list((tmp_path / "b").rglob("*.png"))
