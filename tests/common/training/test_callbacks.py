"""Gated stopping and checkpoints, resources, figures: inside real, tiny fits."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from matplotlib.image import imread
from torch.utils.data import DataLoader

from common.report.figures import log_drawing, log_figure, save_figure
from common.report.resources import peak_memory_bytes
from common.training.callbacks import (
    EpochResources,
    RampedEarlyStopping,
    RampedModelCheckpoint,
)


class Scripted(LightningModule):
    """Logs ``score`` from a script, beginning with epoch ``ramp``; nothing before."""

    def __init__(self, scores: list[float], ramp: int) -> None:
        super().__init__()
        self.scores, self.ramp = scores, ramp
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, index):
        return self.layer(batch).square().mean()

    def validation_step(self, batch, index):
        self.log("early", 0.0, batch_size=1)
        if self.current_epoch >= self.ramp:
            self.log("score", self.scores[self.current_epoch], batch_size=1)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    folder: Path,
    model: LightningModule,
    callbacks: list[Callback],
    epochs: int,
    resume: Path | None = None,
) -> Trainer:
    loader = DataLoader(torch.ones(2, 1))
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=callbacks,
        logger=TensorBoardLogger(folder),
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(model, loader, loader, ckpt_path=resume, weights_only=True)
    return trainer


def test_patience_counts_from_the_end_of_the_ramp(tmp_path):
    """Five epochs without the key, best at 5, patience 2: stops at the end of epoch 7."""
    model = Scripted([0, 0, 0, 0, 0, 1.0, 2.0, 3.0, 0.0, 0.0], ramp=5)
    stop = RampedEarlyStopping("score", patience=2)
    keep = RampedModelCheckpoint("score")
    trainer = fit(tmp_path, model, [stop, keep], 10)
    assert stop.stopped_epoch == 7
    assert trainer.current_epoch == 8
    assert Path(keep.best_model_path).name == "best-epoch=005.ckpt"
    assert float(keep.best_model_score) == 1.0


def test_best_of_the_ramp_is_not_kept(tmp_path):
    """Scores of the ramp (0) would win; the checkpoint knows only what was logged."""
    model = Scripted([0.0, 0.0, 3.0, 2.0, 4.0], ramp=2)
    keep = RampedModelCheckpoint("score", save_top_k=2)
    fit(tmp_path, model, [keep], 5)
    kept = sorted(file.name for file in Path(keep.dirpath).glob("*.ckpt"))
    assert kept == ["best-epoch=002.ckpt", "best-epoch=003.ckpt"]
    state = torch.load(Path(keep.dirpath) / kept[1], weights_only=True)
    assert state["epoch"] == 3


# Lightning's own checkpoint says so, where it matters less: it keeps the last one only.
OTHER_FOLDER = "ignore:The dirpath has changed"


def last_checkpoint() -> ModelCheckpoint:
    return ModelCheckpoint(save_last=True)


@pytest.mark.filterwarnings(OTHER_FOLDER)
@pytest.mark.parametrize(("mode", "sign"), [("min", 1.0), ("max", -1.0)])
def test_a_resumed_run_remembers_the_best_of_the_one_before(tmp_path, mode, sign):
    """Best at 1, resumed after 2 in another folder, worse there: epoch 1 stays the best."""
    scores = [sign * s for s in (5.0, 1.0, 3.0, 2.0, 4.0)]
    first = RampedModelCheckpoint("score", mode=mode, save_top_k=2)
    trainer = fit(tmp_path, Scripted(scores, 0), [first, last_checkpoint()], 3)
    last = Path(str(first.dirpath)) / "last.ckpt"
    again = RampedModelCheckpoint("score", mode=mode, save_top_k=2)
    resumed = fit(tmp_path, Scripted(scores, 0), [again, last_checkpoint()], 5, resume=last)
    assert resumed.log_dir != trainer.log_dir
    assert again.best_model_path == first.best_model_path
    assert float(again.best_model_score) == sign * 1.0
    assert {Path(path).name for path in again.best_k_models} == {
        "best-epoch=001.ckpt",
        "best-epoch=003.ckpt",
    }
    assert Path(first.best_model_path).is_file()
    assert all(Path(path).is_file() for path in first.best_k_models), "the old run stays whole"


@pytest.mark.filterwarnings(OTHER_FOLDER)
def test_a_best_checkpoint_that_is_gone_no_longer_counts(tmp_path):
    scores = [5.0, 1.0, 3.0, 4.0]
    first = RampedModelCheckpoint("score")
    fit(tmp_path, Scripted(scores, 0), [first, last_checkpoint()], 3)
    Path(first.best_model_path).unlink()
    again = RampedModelCheckpoint("score")
    last = Path(str(first.dirpath)) / "last.ckpt"
    with pytest.warns(UserWarning, match=r"gone and no longer count: .*best-epoch=001\.ckpt"):
        fit(tmp_path, Scripted(scores, 0), [again, last_checkpoint()], 4, resume=last)
    assert Path(again.best_model_path).name == "best-epoch=003.ckpt"
    assert float(again.best_model_score) == 4.0


def test_a_key_that_never_comes_is_reported_with_those_that_did(tmp_path):
    model = Scripted([0.0] * 3, ramp=100)
    stop, keep = RampedEarlyStopping("score"), RampedModelCheckpoint("score")
    with pytest.warns(
        UserWarning, match=r"'score'.*never logged in 3 epochs \(most like it: early\)"
    ):
        fit(tmp_path, model, [stop, keep], 3)
    assert keep.best_model_path == ""
    assert stop.stopped_epoch == 0


def test_resources_are_logged_each_epoch(tmp_path):
    trainer = fit(tmp_path, Scripted([1.0] * 2, 0), [EpochResources()], 2)
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    assert metrics["time/train_s"] > 0
    assert metrics["time/val_s"] > 0
    assert 0 < metrics["memory/peak_rss_mib"] <= peak_memory_bytes() / 2**20


class Plotting(Callback):
    def __init__(self, log) -> None:
        self.paths: list[Path | None] = []
        self.draw = log

    def on_validation_epoch_end(self, trainer, pl_module):
        figure = Figure(figsize=(3, 2), dpi=50)
        figure.subplots().plot([0, 1], [trainer.current_epoch, 1])
        self.paths.append(self.draw(trainer, "val/line", figure))


@pytest.mark.parametrize("log", [log_figure, log_drawing])
def test_figures_reach_disk_and_tensorboard(log, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plotting = Plotting(log)
    trainer = fit(tmp_path, Scripted([1.0] * 2, 0), [plotting], 2)
    log_dir = Path(str(trainer.log_dir))
    names = ["val/line_0000.png", "val/line_0001.png"]
    assert plotting.paths == [None, *(log_dir / "figures" / name for name in names)]
    files = sorted(file.name for file in (log_dir / "figures" / "val").iterdir())
    assert files == ["line_0000.png", "line_0001.png"], "no partial file is left"
    events = EventAccumulator(str(log_dir)).Reload()
    images = events.Images("val/line")
    assert len(images) == 2
    drawn = imread(io.BytesIO(images[1].encoded_image_string))
    assert drawn.shape == (100, 150, 3), "as large as the figure says"
    assert np.ptp(drawn) > 0.9, "not empty"
    if log is log_drawing:  # one drawing for both
        kept = imread(log_dir / "figures" / names[1])
        np.testing.assert_array_equal(kept[..., :3], drawn)


def test_a_failed_figure_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    figure = Figure()
    figure.text(0, 0, "$\\unknowncommand$")
    with pytest.raises(ValueError, match="unknowncommand"):
        save_figure(figure, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_figure_name(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.png"):
        save_figure(Figure(), tmp_path / "a.pdf")
