"""The module in a Trainer: what its checkpoints say of the data, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from protein_cvae.data.batch import ProteinBatch
from protein_cvae.data.datamodule import EnsembleDataModule
from protein_cvae.data.record import DATA_KEY, data_record
from protein_cvae.data.settings import DrawSettings, Sources, SplitSettings
from protein_cvae.data.simulate import simulate_ensembles
from protein_cvae.io import write_ensemble
from protein_cvae.model.settings import NetworkSettings
from protein_cvae.module import ProteinCVAEModule

# Checkpoints are scored without the callback that wrote them.
pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using")
SIZES = NetworkSettings(
    width=16, layers=1, condition_layers=1, heads=2, feed_forward=16, d_global=4,
    hidden=8, decoder_layers=1, chain_neighbors=2, spatial_neighbors=4,
)  # fmt: skip
DRAWS = DrawSettings(batch_proteins=2, per_epoch=2)
NAMES = ("simulated_3_0", "simulated_3_1", "simulated_3_2")


class Recorder(ProteinCVAEModule):
    """Remembers which proteins were validated on."""

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.seen: set[str] = set()

    def validation_step(self, batch: ProteinBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.seen |= set(batch.names)
        super().validation_step(batch, batch_idx, dataloader_idx)


class OwnDataModule(EnsembleDataModule):
    """A data module under another name."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("structures")
    for ensemble in simulate_ensembles(3, 6, 24, 26, seed=3):
        write_ensemble(folder / f"{ensemble.name}.pdb", ensemble)
    return folder


def make_data(
    folder: Path,
    kind: type[EnsembleDataModule] = EnsembleDataModule,
    names: tuple[str, ...] = NAMES,
    **split: Any,
) -> EnsembleDataModule:
    files = tuple(str(folder / f"{name}.pdb") for name in names)
    return kind(Sources(files), split=SplitSettings(**split), draws=DRAWS)


def make_trainer(root: Path, epochs: int = 1, keep: bool = False) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=root,
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[ModelCheckpoint(root, save_last=True)] if keep else None,
        enable_checkpointing=keep,
        num_sanity_val_steps=0,
    )


@pytest.fixture(scope="module", params=[EnsembleDataModule, OwnDataModule])
def trained(
    request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A checkpoint of one epoch on all proteins but one, of either data module."""
    root = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    data = make_data(folder, request.param, families_held_out=NAMES[2:])
    make_trainer(root, keep=True).fit(ProteinCVAEModule(SIZES), datamodule=data)
    return root / "last.ckpt"


def run(
    way: str, root: Path, data: EnsembleDataModule, path: Path, model: pl.LightningModule
) -> None:
    trainer = make_trainer(root, 2)
    if way == "test":
        model.evaluation = model.evaluation.__class__(count=2, figures=0)  # type: ignore[operator]
    getattr(trainer, way)(model, datamodule=data, ckpt_path=path, weights_only=True)


def test_the_record_is_of_plain_types_under_our_key(trained: Path) -> None:
    content = torch.load(trained, weights_only=True)
    assert set(content[DATA_KEY]) == {"split", "embedder"}
    assert [e["name"] for e in content[DATA_KEY]["split"]["entries"]] == list(NAMES)


@pytest.mark.parametrize("kind", [EnsembleDataModule, OwnDataModule])
def test_another_split_is_refused(
    folder: Path, trained: Path, tmp_path: Path, kind: type[EnsembleDataModule]
) -> None:
    """By whatever class of data module it is read."""
    other = make_data(folder, kind, families_held_out=NAMES[2:], seed=1)
    with pytest.raises(ValueError, match=r"split otherwise.*seed 1, not 0"):
        run("fit", tmp_path, other, trained, ProteinCVAEModule(SIZES))
    for way in ("validate", "test"):
        with pytest.raises(ValueError, match="also a training model of"):
            run(way, tmp_path, other, trained, ProteinCVAEModule(SIZES))
    unseen = make_data(folder, kind, families_held_out=NAMES[1:2])
    with pytest.raises(ValueError, match="also a training model of simulated_3_1"):
        run("test", tmp_path, unseen, trained, ProteinCVAEModule(SIZES))


def test_fewer_proteins_of_the_same_split_are_scored(
    folder: Path, trained: Path, tmp_path: Path
) -> None:
    model = Recorder(SIZES)
    run("validate", tmp_path, make_data(folder, names=NAMES[:1]), trained, model)
    assert model.seen == {NAMES[0]}


@pytest.fixture
def changed(trained: Path, tmp_path: Path) -> Callable[..., Path]:
    """The checkpoint with its record under another key, or under none."""

    def change(key: str | None) -> Path:
        content = torch.load(trained, weights_only=True)
        record = content.pop(DATA_KEY)
        if key is not None:
            content[key] = record
        torch.save(content, tmp_path / "changed.ckpt")
        return tmp_path / "changed.ckpt"

    return change


def test_a_checkpoint_without_a_record_scores_nothing(
    folder: Path, tmp_path: Path, changed: Callable[..., Path]
) -> None:
    path = changed(None)
    with pytest.raises(ValueError, match="does not say which models it was trained on"):
        run("test", tmp_path, make_data(folder), path, ProteinCVAEModule(SIZES))


def test_an_old_record_is_read(folder: Path, tmp_path: Path, changed: Callable[..., Path]) -> None:
    path = changed("EnsembleDataModule")
    record = data_record(torch.load(path, weights_only=True))
    assert record is not None
    other = make_data(folder, families_held_out=NAMES[2:], seed=1)
    with pytest.raises(ValueError, match="also a training model of"):
        run("test", tmp_path, other, path, ProteinCVAEModule(SIZES))
    model = Recorder(SIZES)
    run("validate", tmp_path, make_data(folder, names=NAMES[:1]), path, model)
    assert model.seen == {NAMES[0]}


def test_hyperparameters_are_plain_and_build_the_same_module(trained: Path) -> None:
    found = torch.load(trained, weights_only=True)["hyper_parameters"]
    assert found["network"]["width"] == 16
    assert found["optimizer"]["lr"] == 5e-4
    module = ProteinCVAEModule.load_from_checkpoint(trained, weights_only=True)
    assert module.model.settings == SIZES


def test_hyperparameters_that_stand_one_by_one_are_grouped() -> None:
    found = ProteinCVAEModule(SIZES).hparams
    flat = {k: v for k, v in found.items() if k not in ("network", "optimizer")}
    flat |= found["network"] | found["optimizer"]
    assert ProteinCVAEModule.convert_hyperparameters(flat) == dict(found)
    assert ProteinCVAEModule.convert_hyperparameters(found) == dict(found)
