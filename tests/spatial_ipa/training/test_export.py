"""What a fit exports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from common.training.callbacks import RampedModelCheckpoint
from spatial_ipa.data.slide import EmbeddedSlide
from spatial_ipa.model.network import NetworkSettings
from spatial_ipa.placing.load import load
from spatial_ipa.placing.placer import Placer
from spatial_ipa.training.datamodule import MinisetDataModule
from spatial_ipa.training.module import SpatialIPAModule
from spatial_ipa.training.settings import MinisetSettings, Schedule


def embedded(name: str, n: int = 150, seed: int = 0, fold: bool = False) -> EmbeddedSlide:
    rng = np.random.default_rng(seed)
    xy = rng.uniform(-1, 1, (n, 2))
    seen = np.stack([np.abs(xy[:, 0]), xy[:, 1]], 1) if fold else xy
    h = np.concatenate([2 * seen, 0.05 * rng.standard_normal((n, 6))], 1)
    return EmbeddedSlide(name, h.astype(np.float32), (50 * xy + 9).astype(np.float32))


@pytest.mark.parametrize("draws", [-1, 1])
def test_bad_number_of_draws(draws: int) -> None:
    with pytest.raises(ValueError, match=f"calibration_draws must be 0 or at least 2, got {draws}"):
        SpatialIPAModule(NetworkSettings(8), calibration_draws=draws)


OVERRIDDEN = pytest.mark.filterwarnings("ignore:You have overridden `transfer_batch_to_device`")


def fit(
    folder: Path, val: list[EmbeddedSlide], draws: int = 3, monitored: bool = False
) -> tuple[SpatialIPAModule, Placer]:
    """A short fit; returns the module with its last weights and what it exported."""
    torch.manual_seed(0)
    settings = MinisetSettings(
        per_epoch=4, val_per_slide=1, batch_size=2, size_min=60, size_max=80, num_candidates=15
    )
    train = [embedded("a"), embedded("b", seed=1)]
    path = folder / "model.ckpt"
    module = SpatialIPAModule(
        NetworkSettings(8, 16, 2, 8, 2), schedule=Schedule(gate_steps=2, ramp_epochs=0, lr=1e-2),
        export=str(path), calibration_draws=draws,
    )  # fmt: skip
    trainer = pl.Trainer(
        default_root_dir=folder, max_epochs=3, accelerator="cpu", logger=False,
        enable_checkpointing=monitored, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, num_sanity_val_steps=0,
        callbacks=[RampedModelCheckpoint(dirpath=folder, monitor="val/e_geo", mode="max")]
        if monitored else None,
    )  # fmt: skip
    trainer.fit(module, datamodule=MinisetDataModule(train, val, settings))
    return module, load(path)


@OVERRIDDEN
@pytest.mark.parametrize("monitored", [False, True])
def test_a_fit_exports_radii_of_the_exported_weights(monitored: bool, tmp_path: Path) -> None:
    """Monitored with mode="max", the exported epoch is the worst one and not the last."""
    val = embedded("v", 200, 2)
    module, exported = fit(tmp_path, [val], monitored=monitored)
    calibration, reference = exported.context.calibration, exported.context.reference
    assert calibration is not None
    assert reference is not None
    assert calibration.slides == ("v",)
    assert calibration.num_draws == 3
    weights, last = exported.network.state_dict(), module.model.state_dict()
    same = all(torch.equal(weights[name], last[name]) for name in weights)
    assert same != monitored
    again = exported.calibrated([embedded("a"), embedded("b", seed=1)], [val], 3)
    assert again.context.calibration is not None
    np.testing.assert_allclose(again.context.calibration.scores, calibration.scores, rtol=1e-5)


@OVERRIDDEN
@pytest.mark.filterwarnings("ignore:Total length of `list`")
@pytest.mark.parametrize("val", [0, 1])
def test_without_radii_an_export_still_has_its_training_cells(val: int, tmp_path: Path) -> None:
    """No validation slides, or no draws for calibration."""
    _, exported = fit(tmp_path, [embedded("v", 200, 2)][:val], draws=0 if val else 3)
    assert exported.context.calibration is None
    assert exported.context.reference is not None
    assert exported.context.reference.names == ("a", "b")


def test_a_slide_that_could_not_be_calibrated_on_is_refused_before_training(
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match="validation slide again is training slide a"):
        fit(tmp_path, [replace(embedded("a"), name="again")])
    assert not (tmp_path / "model.ckpt").exists()
