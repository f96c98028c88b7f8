"""A fit ends with its export, and keeps the one that another fit has left there."""

from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from common.training.export import ExportCheckpoint


class Constant(LightningModule):
    """One weight, which the fit leaves alone."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([value]))

    def training_step(self, batch, index):
        return 0 * self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def fit(value: float, path: Path) -> None:
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        callbacks=[ExportCheckpoint(path, "val", lambda checkpoint: checkpoint.update(own=value))],
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(Constant(value), DataLoader(torch.ones(1, 1)))


def value_in(path: Path) -> float:
    content = torch.load(path, weights_only=True)
    assert content["own"] == float(content["state_dict"]["weight"])
    return float(content["own"])


def test_another_fit_is_kept_and_the_same_one_replaced(tmp_path):
    path = tmp_path / "new" / "model.ckpt"
    for value in (1.0, 1.0, 2.0, 3.0):
        fit(value, path)
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "model.ckpt", "model_1.ckpt", "model_2.ckpt",
    ]  # fmt: skip
    assert value_in(path) == 3.0
    assert value_in(path.with_name("model_1.ckpt")) == 1.0
    assert value_in(path.with_name("model_2.ckpt")) == 2.0


def test_a_file_that_is_no_checkpoint_is_kept_too(tmp_path):
    path = tmp_path / "model.ckpt"
    path.write_text("notes")
    fit(1.0, path)
    assert path.with_name("model_1.ckpt").read_text() == "notes"
    assert value_in(path) == 1.0
