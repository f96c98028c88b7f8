"""What a fit does to keep its memory steady, inside real, tiny fits."""

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from common.report.resources import resident_memory_bytes
from common.training import memory
from common.training.memory import SteadyMemory, steady_memory, trim_heap
from common.training.trainer import quiet_trainer


class Watching(LightningModule):
    """Notes whether oneDNN is on in its steps."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.fails = fails
        self.onednn: list[bool] = []

    def training_step(self, batch, index):
        self.onednn.append(torch.backends.mkldnn.enabled)
        if self.fails:
            raise RuntimeError("on purpose")
        return self.layer(batch).square().mean()

    def validation_step(self, batch, index):
        self.onednn.append(torch.backends.mkldnn.enabled)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def trims(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one at every call of trim_heap."""
    calls: list[str] = []
    monkeypatch.setattr(memory, "trim_heap", lambda: calls.append("trim"))
    return calls


@pytest.fixture(params=[True, False])
def onednn(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Before the fit oneDNN is on, or off."""
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = request.param
    yield request.param
    torch.backends.mkldnn.enabled = before


def fit(model: Watching, callback: SteadyMemory, validate: bool = False) -> Trainer:
    trainer = quiet_trainer(
        1, callbacks=[callback], num_sanity_val_steps=0, limit_val_batches=1.0 if validate else 0
    )
    loader = DataLoader(torch.ones(7, 1))
    trainer.fit(model, loader, loader)
    return trainer


@pytest.mark.parametrize("fails", [False, True])
def test_onednn_is_off_in_a_fit_and_as_before_when_it_has_ended(onednn: bool, fails: bool) -> None:
    model = Watching(fails)
    with pytest.raises(RuntimeError, match="on purpose") if fails else nullcontext():
        fit(model, SteadyMemory(), validate=True)
    assert model.onednn == [False] * (1 if fails else 14)
    assert torch.backends.mkldnn.enabled is onednn


def test_onednn_stays_where_it_is_asked_for(onednn: bool) -> None:
    model = Watching()
    fit(model, SteadyMemory(onednn=True))
    assert model.onednn == [onednn] * 7


@pytest.mark.parametrize(("every", "validate", "expected"), [
    (3, False, 2), (3, True, 3), (7, False, 1), (8, False, 0), (0, True, 0),
])  # fmt: skip
def test_memory_is_given_back_every_few_steps_and_after_a_validation(
    trims: list[str], every: int, validate: bool, expected: int
) -> None:
    fit(Watching(), SteadyMemory(every), validate)
    assert len(trims) == expected


def test_validating_alone_leaves_onednn(onednn: bool) -> None:
    model = Watching()
    trainer = quiet_trainer(1, callbacks=[SteadyMemory()])
    trainer.validate(model, DataLoader(torch.ones(2, 1)), verbose=False)
    assert model.onednn == [onednn] * 2


def test_negative_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="every_n_steps must not be negative, got -1"):
        SteadyMemory(-1)


def test_a_trainer_that_has_the_callback_gets_no_other() -> None:
    assert [type(c) for c in steady_memory(quiet_trainer(1))] == [SteadyMemory]
    assert steady_memory(quiet_trainer(1, callbacks=[SteadyMemory(9)])) == []


def test_trimming_gives_back_what_lies_between_blocks_in_use() -> None:
    """Blocks of 64 KiB are of the heap; the last one in use keeps it from shrinking by itself."""
    blocks: list[bytearray | None] = [bytearray(b"x") * 65536 for _ in range(3200)]  # 210 MB
    for number in range(len(blocks)):
        if number % 16 != 15:
            blocks[number] = None
    before = resident_memory_bytes()
    if not trim_heap():
        pytest.skip("this C library cannot")
    assert before - resident_memory_bytes() > 100e6
    assert all(blocks[number] == bytearray(b"x") * 65536 for number in range(15, 3200, 16))
