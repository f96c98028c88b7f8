"""A loader of numbered draws goes on where its state says, inside real fits, too."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import Dataset

from common.rng import generator_for
from common.training.loader import DrawLoader
from common.training.resuming import ExactResume
from common.training.sampler import DrawSampler

DRAWS, BATCH = 12, 2  # six steps an epoch


class Draws(Dataset[torch.Tensor]):
    """Item ``index`` is drawn from the index alone."""

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.cat(
            [torch.tensor([float(index)]), torch.rand(2, generator=generator_for(index))]
        )


def make_loader(workers: int = 0, batch: int = BATCH, draws: int = DRAWS) -> DrawLoader[Any]:
    return DrawLoader(Draws(), DrawSampler(draws), batch, num_workers=workers)


def indices(batches: list[torch.Tensor]) -> list[int]:
    return [int(value) for batch in batches for value in batch[:, 0]]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_rest_of_an_epoch_follows_and_then_whole_ones(workers):
    first = make_loader(workers)
    first.draws.set_epoch(3)
    stream = iter(first)
    given = [next(stream) for _ in range(4)]
    state = first.state_dict()
    assert state == {"epoch": 3, "batches": 4, "draws_per_epoch": 12, "draws_per_step": 2}
    again = make_loader(workers)
    again.load_state_dict(state)
    again.draws.set_epoch(3)  # as Lightning does before each epoch
    rest = list(again)
    assert indices(given + rest) == list(range(36, 48))
    assert again.state_dict()["batches"] == 6
    again.draws.set_epoch(4)
    assert indices(list(again)) == list(range(48, 60))


def test_a_place_in_another_epoch_is_not_taken():
    loader = make_loader()
    loader.load_state_dict(
        {"epoch": 0, "batches": 6, "draws_per_epoch": DRAWS, "draws_per_step": BATCH}
    )
    loader.draws.set_epoch(1)
    assert indices(list(loader)) == list(range(12, 24))


def test_draws_that_are_not_collated_go_on_one_by_one():
    loader = DrawLoader(Draws(), DrawSampler(6, 2, 1), None)
    loader.load_state_dict({"epoch": 0, "batches": 2, "draws_per_epoch": 6, "draws_per_step": 2})
    assert [int(item[0]) for item in loader] == [5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 3}, "trained with 2 draws per step, now there are 3; resume it"),
        ({"draws": 10}, "trained with 12 draws per epoch, now there are 10; resume it"),
    ],
)
def test_other_steps_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_loader(**options).load_state_dict(make_loader().state_dict())


class Line(LightningModule):
    """Learns from what it is given, and keeps a list of it."""

    def __init__(self, workers: int, batch: int = BATCH, early: bool = False) -> None:
        super().__init__()
        self.workers, self.batch, self.early = workers, batch, early
        self.layer = torch.nn.Linear(2, 1)
        torch.nn.init.ones_(self.layer.weight)
        torch.nn.init.zeros_(self.layer.bias)
        self.seen: list[int] = []
        self.validated: list[tuple[int, int]] = []

    def train_dataloader(self) -> DrawLoader[Any]:
        return make_loader(self.workers, self.batch)

    def val_dataloader(self) -> DrawLoader[Any]:
        return make_loader(0, 4, 8)

    def training_step(self, batch, index):
        self.seen += indices([batch])
        return (self.layer(batch[:, 1:]) - batch[:, :1]).square().mean()

    def validation_step(self, batch, index):
        self.validated.append((self.current_epoch, index))
        self.log("val", self.layer(batch[:, 1:]).mean(), batch_size=len(batch))

    def configure_optimizers(self):
        if self.early:  # the loader is made before the checkpoint is read
            assert self.trainer.estimated_stepping_batches == 18
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
        return [optimizer], [schedule]


def fit(folder: Path, module: Line, resume: Path | None = None, **options: Any) -> ModelCheckpoint:
    keep = ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=1)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        callbacks=[keep, ExactResume()],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **options,
    )
    trainer.fit(module, ckpt_path=resume, weights_only=True)
    return keep


@pytest.mark.parametrize(("workers", "early"), [(0, False), (2, False), (0, True)])
@pytest.mark.parametrize("step", [1, 4, 6, 7, 12])
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_fit_goes_on_from_every_step(tmp_path, workers, early, step):
    """In the first step, the middle, the last step of an epoch and the first of the next."""
    whole = Line(workers, early=early)
    fit(tmp_path / "whole", whole)
    assert whole.seen == list(range(36))
    assert whole.validated == [(epoch, index) for epoch in range(3) for index in range(2)]
    rest = Line(workers, early=early)
    fit(tmp_path / "rest", rest, tmp_path / "whole" / f"step={step}.ckpt")
    assert rest.seen == whole.seen[step * BATCH :]
    done = {6: 0, 7: 1, 12: 1}.get(step, 0)  # validations before the checkpoint
    assert rest.validated == whole.validated[2 * done :]
    torch.testing.assert_close(rest.layer.weight, whole.layer.weight, rtol=0, atol=0)
    last = [
        torch.load(tmp_path / name / "step=18.ckpt", weights_only=True)
        for name in ("whole", "rest")
    ]
    assert last[0]["lr_schedulers"] == last[1]["lr_schedulers"]
    assert last[0]["epoch"] == last[1]["epoch"]
    assert last[0]["global_step"] == last[1]["global_step"]


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("step", [4, 6])
def test_another_batch_size_is_refused_anywhere(tmp_path, step):
    fit(tmp_path / "first", Line(0))
    with pytest.raises(ValueError, match="trained with 2 draws per step, now there are 4"):
        fit(tmp_path / "other", Line(0, 4), tmp_path / "first" / f"step={step}.ckpt")


@pytest.mark.filterwarnings("ignore:Be aware that when using")
def test_another_batch_size_is_refused_at_an_epochs_end(tmp_path):
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, callbacks=[keep, ExactResume()],
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(Line(0))
    with pytest.raises(ValueError, match="trained with 2 draws per step, now there are 4"):
        fit(tmp_path / "other", Line(0, 4), Path(keep.best_model_path))
