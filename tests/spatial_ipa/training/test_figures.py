"""Figures of validation: in every epoch, on rank 0, and nothing else changes."""

from __future__ import annotations

import itertools
from pathlib import Path
from unittest.mock import Mock

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from spatial_ipa.data.slide import EmbeddedSlide
from spatial_ipa.model.network import Form, NetworkSettings
from spatial_ipa.training.datamodule import MinisetDataModule
from spatial_ipa.training.figures import shows_figures
from spatial_ipa.training.module import SpatialIPAModule
from spatial_ipa.training.settings import MinisetSettings, Schedule

QUIET = pytest.mark.filterwarnings("ignore:You have overridden `transfer_batch_to_device`")


def slide(seed: int) -> EmbeddedSlide:
    rng = np.random.default_rng(seed)
    xy = rng.random((120, 2))
    h = np.concatenate([xy, np.sin(xy), rng.standard_normal((120, 4))], 1)
    return EmbeddedSlide(f"s{seed}", h.astype(np.float32), xy.astype(np.float32))


def fit(folder: Path, logged: bool, form: Form) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    settings = MinisetSettings(
        per_epoch=2, val_per_slide=2, batch_size=2, size_min=60, size_max=80, num_candidates=15
    )
    network = NetworkSettings(8, 16, 2, 8, 2, form=form)
    module = SpatialIPAModule(network, schedule=Schedule(gate_steps=1))
    trainer = pl.Trainer(
        default_root_dir=folder, max_epochs=2, accelerator="cpu",
        logger=TensorBoardLogger(folder, "log", 0) if logged else False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(module, datamodule=MinisetDataModule([slide(0), slide(1)], [slide(2)], settings))
    return module.state_dict() | {"draw": torch.rand(1)}


@QUIET
@pytest.mark.parametrize("form", ["points", "states"])
def test_every_epoch_shows_figures_and_no_number_changes(form: Form, tmp_path: Path) -> None:
    shown, plain = fit(tmp_path / "a", True, form), fit(tmp_path / "b", False, form)
    for name, value in plain.items():
        assert torch.equal(shown[name], value), name
    (file,) = (tmp_path / "a").rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file), size_guidance={"images": 0, "scalars": 0}).Reload()
    kinds = ("focus", "layout", "progression")
    assert set(events.Tags()["images"]) == {f"val/{kind}" for kind in kinds}
    for kind in kinds:
        images = events.Images(f"val/{kind}")
        assert len(images) == 2, kind  # and none of the sanity check
        assert all(image.width > 300 and image.height > 100 for image in images), kind
    figures = sorted(path.name for path in (tmp_path / "a").rglob("figures/val/*.png"))
    assert figures == [f"{kind}_000{epoch}.png" for kind in kinds for epoch in (0, 1)]
    heads = {tag for tag in events.Tags()["scalars"] if tag.startswith("health/head_")}
    names = ("head_precision30", "head_recall30", "head_vs_true_distance")
    assert heads == {f"health/{name}/{head}" for name in names for head in (0, 1)}
    assert not list((tmp_path / "b").rglob("*.png"))


def test_ranks_without_a_log_draw_nothing() -> None:
    """Rank 0 with a logger draws, after the sanity check."""
    for loggers, rank_zero, checking in itertools.product([[], [1]], [True, False], [True, False]):
        trainer = Mock(loggers=loggers, is_global_zero=rank_zero, sanity_checking=checking)
        assert shows_figures(trainer) == (bool(loggers) and rank_zero and not checking)
