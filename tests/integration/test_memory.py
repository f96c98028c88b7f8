"""Every fit keeps its memory steady, by whatever Trainer."""

from collections.abc import Callable
from functools import partial

import lightning.pytorch as pl
import pytest

from common.training.memory import SteadyMemory
from common.training.trainer import quiet_trainer
from protein_cvae.module import ProteinCVAEModule
from spatial_ipa.encoder.module import EncoderModule
from spatial_ipa.training.module import SpatialIPAModule

MODULES = [ProteinCVAEModule, SpatialIPAModule, partial(EncoderModule, "encoder.pt")]


def steady(module: pl.LightningModule, *given: pl.Callback) -> list[SteadyMemory]:
    """The callbacks of that kind that a Trainer with the ``given`` ones has for a module."""
    trainer = quiet_trainer(1, callbacks=list(given))
    module.trainer = trainer
    added = module.configure_callbacks()
    assert isinstance(added, list)
    return [c for c in (*given, *added) if isinstance(c, SteadyMemory)]


@pytest.mark.parametrize("make", MODULES)
def test_a_trainer_without_the_callback_gets_one(make: Callable[[], pl.LightningModule]) -> None:
    found = steady(make())
    assert [(c.every_n_steps > 0, c.onednn) for c in found] == [(True, False)]


@pytest.mark.parametrize("make", MODULES)
def test_the_callback_of_the_user_is_the_only_one(make: Callable[[], pl.LightningModule]) -> None:
    own = SteadyMemory(7, onednn=True)
    assert steady(make(), own) == [own]
