from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader

from common.training.trainer import quiet_trainer


class _Line(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return ((self.weight - batch) ** 2).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.25)


def test_trains_and_leaves_nothing_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    line = _Line()
    trainer = quiet_trainer(3)
    trainer.fit(line, DataLoader(torch.ones(4, 1), batch_size=4))
    assert trainer.global_step == 3
    assert line.weight.item() == pytest.approx(1 - 0.5**3)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


def test_given_options_win() -> None:
    trainer = quiet_trainer(1, gradient_clip_val=1.0, enable_progress_bar=True)
    assert trainer.gradient_clip_val == 1.0
    assert trainer.progress_bar_callback is not None
    assert quiet_trainer(1).progress_bar_callback is None
