"""What changes with the number of processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest

from common.training.scaling import Scaling, batch_of_process, check_scaling, rate_factor
from common.training.trainer import quiet_trainer
from protein_cvae.data.datamodule import EnsembleDataModule
from protein_cvae.data.settings import DrawSettings
from protein_cvae.model.settings import NetworkSettings as ProteinSettings
from protein_cvae.module import OptimizerSettings, ProteinCVAEModule
from spatial_ipa.training.datamodule import MinisetDataModule
from spatial_ipa.training.module import SpatialIPAModule
from spatial_ipa.training.settings import MinisetSettings, Schedule


@pytest.mark.parametrize(
    ("scaling", "batch", "factor"),
    [("none", 8, 1.0), ("batch", 2, 1.0), ("sqrt", 8, 2.0), ("linear", 8, 4.0)],
)
def test_four_processes(scaling: Scaling, batch: int, factor: float) -> None:
    assert batch_of_process(8, scaling, 4, "size") == batch
    assert rate_factor(scaling, 4) == factor


@pytest.mark.parametrize("scaling", ["none", "batch", "sqrt", "linear"])
def test_one_process_is_as_without_a_rule(scaling: Scaling) -> None:
    assert batch_of_process(7, scaling, 1, "size") == 7
    assert rate_factor(scaling, 1) == 1.0


def test_sqrt_keeps_the_rate_over_the_root_of_the_batch() -> None:
    for world in (2, 3, 8):
        step = batch_of_process(6, "sqrt", world, "size") * world
        assert rate_factor("sqrt", world) / math.sqrt(step) == pytest.approx(1 / math.sqrt(6))


def test_a_batch_that_does_not_come_out_even_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the 8 draws of a step \(minisets.batch_size\) among 3"):
        batch_of_process(8, "batch", 3, "minisets.batch_size")
    with pytest.raises(ValueError, match="to a multiple such as 9, or scaling to sqrt"):
        batch_of_process(8, "batch", 3, "size")


def test_another_word_is_refused() -> None:
    with pytest.raises(ValueError, match="one of none, batch, sqrt, linear, got 'square'"):
        check_scaling("square")


def spatial(scaling: Scaling) -> tuple[pl.LightningModule, pl.LightningDataModule]:
    data = MinisetDataModule([], [], MinisetSettings(scaling=scaling))
    return SpatialIPAModule(schedule=Schedule(lr=0.02, lr_final=0.001)), data


def protein(scaling: Scaling) -> tuple[pl.LightningModule, pl.LightningDataModule]:
    module = ProteinCVAEModule(
        ProteinSettings(width=32, layers=1, heads=4),
        optimizer=OptimizerSettings(lr=0.02, lr_final=0.001),
    )
    return module, EnsembleDataModule(draws=DrawSettings(scaling=scaling))


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*before `optimizer.step")
@pytest.mark.parametrize("make", [spatial, protein])
@pytest.mark.parametrize(
    ("scaling", "factor"), [("none", 1), ("batch", 1), ("sqrt", 2), ("linear", 4)]
)
def test_the_learning_rates_of_four_processes(
    make: Callable[[Scaling], tuple[pl.LightningModule, pl.LightningDataModule]],
    scaling: Scaling,
    factor: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the start of the cosine and at its end, after three epochs or steps."""
    trainer = quiet_trainer(3)
    monkeypatch.setattr(type(trainer), "world_size", 4)
    monkeypatch.setattr(type(trainer), "estimated_stepping_batches", 3)
    module, data = make(scaling)
    module.trainer = data.trainer = trainer
    trainer.datamodule = data  # type: ignore[attr-defined]
    made: Any = module.configure_optimizers()
    group = made["optimizer"].param_groups[0]
    assert group["lr"] == pytest.approx(0.02 * factor)
    for _ in range(3):
        made["lr_scheduler"]["scheduler"].step()
    assert group["lr"] == pytest.approx(0.001 * factor)
