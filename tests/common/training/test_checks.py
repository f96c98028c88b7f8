"""A fit under which a module would train something else is refused by name."""

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.strategies import SingleDeviceStrategy, Strategy
from torch.utils.data import DataLoader

from common.training.checks import check_fit
from common.training.trainer import quiet_trainer
from protein_cvae.model.settings import NetworkSettings as ProteinSettings
from protein_cvae.module import ProteinCVAEModule
from spatial_ipa.encoder.module import EncoderModule
from spatial_ipa.model.network import NetworkSettings
from spatial_ipa.training.module import SpatialIPAModule


class Data(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(torch.ones(2, 1))


def spatial(folder):
    return SpatialIPAModule(NetworkSettings(4, 16, 2, 8, 2)), "MinisetDataModule"


def protein(folder):
    return ProteinCVAEModule(ProteinSettings(width=32, layers=1, heads=4)), "EnsembleDataModule"


def encoder(folder):
    return EncoderModule(str(folder / "e.pt")), "EncoderDataModule"


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but")
@pytest.mark.parametrize("make", [spatial, protein, encoder])
def test_data_from_elsewhere_are_refused(make, tmp_path):
    """They would leave out gate pretraining, start noise, the record of what was learned from."""
    module, wanted = make(tmp_path)
    with pytest.raises(ValueError, match=f"trained with a {wanted}.* got plain DataLoaders"):
        quiet_trainer(1).fit(module, DataLoader(torch.ones(2, 1)))
    with pytest.raises(ValueError, match=f"trained with a {wanted}.* got a Data; call"):
        quiet_trainer(1).fit(module, datamodule=Data())


class Elsewhere(Data):
    def prepare_data(self):
        pytest.fail("data were prepared")


class Shared(SingleDeviceStrategy):
    """As FSDP and DeepSpeed, neither on one device nor DDP."""

    strategy_name = "shared"


@pytest.mark.parametrize("make", [spatial, protein, encoder])
def test_a_strategy_that_shares_parameters_out_is_refused_before_data_are_read(
    make, tmp_path, monkeypatch
):
    module, _ = make(tmp_path)
    monkeypatch.setattr("common.training.checks.SingleDeviceStrategy", type("No", (Strategy,), {}))
    with pytest.raises(ValueError, match=r"strategy is a Shared, under which .*; use auto or ddp"):
        quiet_trainer(1, strategy=Shared("cpu")).fit(module, datamodule=Elsewhere())


class Checked(LightningModule):
    def setup(self, stage):
        check_fit(self, Data)

    def training_step(self, batch, index):
        return None


def test_lightnings_sampler_is_refused_on_several_processes(monkeypatch):
    trainer = quiet_trainer(1, use_distributed_sampler=True)
    module = Checked()
    module.trainer = trainer
    trainer.datamodule = Data()
    check_fit(module, Data)
    monkeypatch.setattr(type(trainer), "world_size", 2)
    with pytest.raises(ValueError, match="give the Trainer use_distributed_sampler=False"):
        check_fit(module, Data)
